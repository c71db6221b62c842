"""Tapes on the command line: one teacher pass for all groups to come, announced, listed and dropped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from cakdbench.engine.estimate import Speed, add_up
from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.engine.tape_plan import TapedEpochs
from cakdbench.engine.tapes import needs_of, stream_numbers
from cakdbench.engine.work import list_work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.store import Store
from cakdbench.train.teaching import TeacherPass
from tests.cli_lab import PAIR, SHORT, Shell

METHODS = ("--methods", "dkd,rkd,cc")


def weights(store: Path) -> dict[str, str]:
    """Return the hash of every student by its method."""
    records, damage = Store(store).records()
    assert not damage
    return {record.label: record.weights_sha256 for record in records if record.identity.student == "vit_xs"}


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory) -> tuple[Shell, dict[str, str]]:
    """A store, and the students in it: a live teacher taught them, all in one group."""
    shell = Shell(tiny, tmp_path_factory.mktemp("plain"))
    code, output = shell.run(*METHODS)
    assert code == 0, output
    return shell, weights(shell.store)


@pytest.fixture
def taught(shell, plain):
    """A store with nothing but the trained teacher."""
    for run in Store(plain[0].store).runs():
        if not run.identity().teacher and run.identity().student == "resnet_m":
            shutil.copytree(run.path, shell.store / run.key)
    return shell


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """A 1 for every local batch that a teacher looks at in training."""
    seen: list[int] = []
    teach = TeacherPass.__call__
    monkeypatch.setattr(TeacherPass, "__call__", lambda self, samples: seen.append(1) or teach(self, samples))
    return seen


def test_one_pass_of_the_teacher_serves_all_groups_to_come(taught, plain, passes, monkeypatch):
    code, output = taught.run(*METHODS, "--tape", "--dry-run")
    assert code == 0 and not (taught.store / "tapes").exists()
    # 2 epochs of 80 images: 10 logits and 192 features of 4 bytes
    assert "tapes to record: up to 129 kB on 1 tape (logits 6.4 kB, pooled 123 kB)" in output, output
    code, output = taught.run("--methods", "kd", "--tape")
    assert code == 0, output
    assert len(passes) == 8
    code, output = taught.run(*METHODS, "--tape", "--max-lanes", "2")
    assert code == 0 and "tapes to record: nothing left to record" in output, output
    assert len(passes) == 8 and weights(taught.store) == plain[1]
    _see_and_drop(taught)


def test_an_estimate_spares_the_teacher_what_comes_from_tape(taught):
    def session(threads: int = 1) -> Session:
        options = run_options(
            "dkd,fitnet", pairs=PAIR, recipe="demo", settings=SHORT, store=taught.store, data_dir=taught.data,
            teacher_files=(taught.data / "teachers.toml",), cpu=True, tape=("logits", "pooled"),
            threads=threads,
        )  # fmt: skip
        AcceleratorState._reset_state()
        return Session(options)

    cells = {cell.label: cell for cell in session().plan.cells}
    logits, stages = [cells["scratch"], cells["kd"], cells["dkd"]], [cells["dkd"], cells["fitnet"]]
    taped = TapedEpochs(session().harness)
    assert [taped(stages), taped(logits), taped(stages)] == [0, 2, 0]  # the first group records for the second
    assert taught.run("--methods", "kd", "--tape")[0] == 0
    assert TapedEpochs(session().harness)(logits) == 2
    other = session(threads=2)  # counts as another device
    assert TapedEpochs(other.harness)(logits) == 0 and other.tapes.total > 0
    other = session(threads=2)
    other.harness.elsewhere = True  # and that of the tape may be the one that computes
    assert TapedEpochs(other.harness)(logits) == 2 and other.tapes.total == 0
    torch.set_num_threads(1)
    works = list_work(logits[1:], taught.data)
    speeds = {work.key: Speed(1.0, 10.0, 1.0) for work in works}
    live, spared = (add_up(works, speeds, "made up", taped=lambda cells, n=n: n).seconds for n in (0, 2))
    assert (live, spared) == (2 * 80 * (1 + 1 + 10), 2 * 80 * 2)


def _see_and_drop(shell):
    code, output = shell("tape", "list", "--store", str(shell.store), "--format", "json")
    (tape,) = json.loads(output)
    assert (tape["seed"], tape["epochs"], tape["parts"]) == (0, 2, ["logits", "pooled"])
    assert shell("tape", "drop", "--store", str(shell.store))[0] == 2
    code, output = shell("tape", "drop", tape["tape"][:8], "--store", str(shell.store))
    assert code == 0 and "dropped 1 tapes" in output and not list((shell.store / "tapes").iterdir())


def test_no_room_is_a_line_before_anything_starts(taught, monkeypatch):
    usage = shutil.disk_usage(taught.store)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    code, output = taught.run("--methods", "kd", "--tape")
    assert code == 2 and "no room for tapes" in output and "--tape-logits records 6.4 kB" in output, output
    assert not (taught.store / "tapes").exists()
    assert taught.run("--methods", "kd", "--tape", "--dry-run")[0] == 0
    code, output = taught.run("--methods", "kd", "--tape-logits")
    assert code == 0 and {path.name[:6] for path in taught.store.glob("tapes/*/*.npy")} == {"logits"}


def test_a_variant_that_needs_less_than_its_class_can_be_taught_from_tape():
    plan = make_plan(["fitnet:pooled", "fitnet"], resolve_pairs("resnet_m>vit_xs@fashion_demo"), (0,), Settings())
    needs = {cell.label: needs_of(cell, 10) for cell in plan.cells}
    assert needs["fitnet:pooled"] <= {"logits", "pooled"} and "stages" in needs["fitnet"]


def test_recipes_that_show_the_teacher_the_same_images_share_a_tape():
    recipe = load_recipe("ofa_cifar_msa")
    same = {"optimizer.lr": 0.3, "epochs": 7, "schedule.warmup_epochs": 1, "label_smoothing": 0.2, "drop_path": 0.3}
    assert stream_numbers(recipe.override(same)) == stream_numbers(recipe)
    for name, value in {"augment.mixup": 0.1, "image_size": 96, "local_batch": 64, "augment.hflip": 0.1}.items():
        assert stream_numbers(recipe.override({name: value})) != stream_numbers(recipe)
