"""Teachers' tapes: the same students with a tape, without, with a damaged one, resumed, and over several groups."""

import json
from pathlib import Path

import pytest

from cakdbench.engine.tapes import stored_tapes
from cakdbench.models.staged import StagedModel
from cakdbench.store import Store
from tests.cli_lab import PAIR, Shell

METHODS = ("--methods", "dkd,rkd,cc")
TEACHER_FORWARDS = "teacher forwards"


def weights(store: Path) -> dict[str, str]:
    """Return the hash of every student by its method."""
    records, damage = Store(store).records()
    assert not damage
    return {record.label: record.weights_sha256 for record in records if record.identity.teacher or record.label}


def tape_files(store: Path) -> list[Path]:
    return sorted(store.glob("tapes/*/*.npy"))


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory) -> dict[str, str]:
    """The students of live teachers, all in one group."""
    shell = Shell(tiny, tmp_path_factory.mktemp("plain"))
    code, output = shell.run(*METHODS)
    assert code == 0, output
    return weights(shell.store)


@pytest.fixture
def passes(monkeypatch) -> list[bool]:
    """Counts the images that a teacher looks at in training, by wrapping its real forward pass."""
    from cakdbench.train.teaching import TeacherPass

    seen: list[bool] = []
    teach = TeacherPass.teach
    monkeypatch.setattr(TeacherPass, "teach", lambda self, images: seen.append(True) or teach(self, images))
    return seen


def test_students_of_a_tape_are_those_of_the_teacher(shell, plain, passes):
    code, output = shell.run("--methods", "kd", "--tape")
    assert code == 0, output
    assert "tapes to record: up to 14.1 kB" in output or "tapes to record: up to" in output
    recorded = len(passes)
    assert recorded == 8 and len(tape_files(shell.store)) == 4  # 2 epochs of 4 local batches; 2 parts
    code, output = shell.run(*METHODS, "--tape")
    assert code == 0, output
    assert len(passes) == recorded and "tapes to record: nothing left" in output
    assert weights(shell.store) == plain
