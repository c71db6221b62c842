"""SIGKILL at random moments over a grid: nothing finished is lost or repeated, the weights are the undisturbed ones."""

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cakdbench.store import Store
from tests.cli_lab import SHORT, Program, Shell

PAIRS = ",".join(f"{pair}@timm:folder/tiny" for pair in ("resnet_m>vit_xs", "swin_m>resnet_s", "resnet_m>mixer_xs"))
GRID = (*(s for s in SHORT if "epochs" not in s), "recipe.epochs=2", "teacher.epochs=2")


def start(tiny: Path, work: Path, *more: str) -> Program:
    """The grid, in a process that has its imports behind it, so that a moment can fall anywhere in the work."""
    work.mkdir(exist_ok=True)
    teachers = work / "teachers.toml"
    entry = '[[teachers]]\nmodel = "{}"\ndataset = "timm:folder/tiny"\ntrain = "demo_teacher"\n'
    teachers.write_text(entry.format("resnet_m") + entry.format("swin_m"))
    return Program(
        "run", "--methods", "fbt,ofa", "--pairs", PAIRS, *Shell(tiny, work).places(), "--boards", str(work / "boards"),
        "--cpu", "--jobs", "1", "--recipe", "demo", "--teachers", str(teachers), "--checkpoint-seconds", "0.2", *more,
        "--yes", "--set", *GRID,
    )  # fmt: skip


def results(store: Path) -> dict[str, tuple]:
    """What must not depend on interruptions, by key."""
    records, damage = Store(store).records()
    assert not damage
    return {r.key: (r.weights_sha256, r.predictions_sha256, r.result, r.history) for r in records}


@dataclass
class Ordeal:
    """The kills, and what became of runs that were finished when they came."""

    kills: int = 0
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)

    def look(self, store: Path) -> None:
        """Compare the finished runs, and the times their records were written, with those of the last look."""
        now = {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/record.json")}
        self.lost += [key for key in self.finished if key not in now]
        self.repeated += [key for key, written in self.finished.items() if now.get(key, written) != written]
        self.finished = now


def run(tiny: Path, work: Path, kills: int = 0, longest: float = 1.0, *more: str) -> Ordeal:
    """Start the grid again and again, killing it at random moments, until it gets through."""
    moments, ordeal = random.Random(7), Ordeal()
    while True:
        program = start(tiny, work, *more)
        if ordeal.kills < kills:
            time.sleep(moments.uniform(0.2, longest))
            program.process.kill()
        code, output = program.finish()
        ordeal.look(work / "runs")
        if code != -signal.SIGKILL:
            assert code == 0, output
            return ordeal
        ordeal.kills += 1


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> tuple[dict[str, tuple], float]:
    """The results of the grid when nothing happens, and how many seconds it takes."""
    work, started = tmp_path_factory.mktemp("grid"), time.monotonic()
    assert len(run(tiny, work).finished) == 14
    return results(work / "runs"), time.monotonic() - started


@pytest.fixture
def quiet(undisturbed) -> dict[str, tuple]:
    return undisturbed[0]


@pytest.mark.parametrize(
    ("kills", "jobs"), [(5, 1), pytest.param(22, 1, marks=pytest.mark.slow), pytest.param(3, 2, marks=pytest.mark.slow)]
)
def test_a_grid_killed_at_random_moments_ends_as_if_nothing_had_happened(tiny, tmp_path, undisturbed, kills, jobs):
    calm, seconds = undisturbed
    longest = seconds / 8 if jobs == 1 else seconds / 2  # so that the grid cannot be through before the last kill
    ordeal = run(tiny, tmp_path, kills, longest, "--jobs", str(jobs))
    assert ordeal.kills == kills
    assert (ordeal.lost, ordeal.repeated) == ([], [])
    assert results(tmp_path / "runs") == calm


def test_two_processes_on_one_store_share_the_work_and_do_nothing_twice(tiny, tmp_path, quiet):
    both = [start(tiny, tmp_path) for _ in range(2)]
    codes, outputs = zip(*(process.finish() for process in both))
    assert codes == (0, 0), outputs
    ends = [line for output in outputs for line in output.splitlines() if "epoch 2/2: " in line]
    assert len(ends) == 14
    assert results(tmp_path / "runs") == quiet


def test_ctrl_c_saves_all_lanes_and_says_how_to_go_on(tiny, tmp_path):
    program = start(tiny, tmp_path)
    program.wait_for("scratch > vit_xs: epoch 1/2")
    os.kill(program.process.pid, signal.SIGINT)
    code, output = program.finish()
    assert code == 130
    assert "the same command goes on from here" in output
    lanes = {path.parents[1].name for path in (tmp_path / "runs").glob("*/checkpoints/step-*.pt")}
    assert len(lanes) == 8
    steps = {max(path.name for path in (tmp_path / "runs" / lane / "checkpoints").iterdir())[:14] for lane in lanes}
    assert len(steps) == 1


def test_a_lane_with_a_damaged_checkpoint_goes_back_one_and_catches_up_in_a_group_of_its_own(tiny, tmp_path, quiet):
    program = start(tiny, tmp_path)
    program.wait_for("fbt > vit_xs: epoch 1/2")
    program.process.kill()
    program.finish()
    newest = max((tmp_path / "runs").glob("kd-vit_xs-*/checkpoints/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    code, output = start(tiny, tmp_path).finish()
    assert code == 0, output
    assert f"{newest} is damaged" in output
    assert results(tmp_path / "runs") == quiet
