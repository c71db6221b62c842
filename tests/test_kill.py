"""SIGKILL at random moments over a grid: nothing finished is lost or repeated, the weights are the undisturbed ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_lab import SHORT, Shell

from cakdbench.store import Store

PAIRS = ",".join(f"{pair}@timm:folder/tiny" for pair in ("resnet_m>vit_xs", "swin_m>resnet_s", "resnet_m>mixer_xs"))
GRID = (*(s for s in SHORT if "epochs" not in s), "recipe.epochs=4", "teacher.epochs=3")


def command(tiny: Path, work: Path, *more: str) -> list[str]:
    """The arguments of `cakdbench` for the grid."""
    teachers = work / "teachers.toml"
    entry = '[[teachers]]\nmodel = "{}"\ndataset = "timm:folder/tiny"\ntrain = "demo_teacher"\n'
    teachers.write_text(entry.format("resnet_m") + entry.format("swin_m"))
    shell = Shell(tiny, work, None)
    return [
        "run", "--methods", "fbt,ofa", "--pairs", PAIRS, *shell.places(), "--boards", str(work / "boards"),
        "--cpu", "--jobs", "1", "--recipe", "demo", "--teachers", str(teachers), "--checkpoint-seconds", "0.2", *more,
        "--set", *GRID,
    ]  # fmt: skip


def results(store: Path) -> dict[str, tuple]:
    """What must not depend on interruptions, by key."""
    records, damage = Store(store).records()
    assert not damage
    return {r.key: (r.weights_sha256, r.predictions_sha256, r.result, r.history) for r in records}


def run(tiny: Path, work: Path, kills: int, longest: float = 1.0, *more: str) -> dict:
    work.mkdir()
    script = Path(__file__).with_name("killing.py")
    arguments = [str(script), str(work / "runs"), str(kills), str(longest), "7", *command(tiny, work, *more)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["code"] == 0, (work / "log.txt").read_text()[-3000:]
    return report


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> tuple[dict[str, tuple], float]:
    """The results of the grid when nothing happens, and how many seconds it takes."""
    work, started = tmp_path_factory.mktemp("grid") / "quiet", time.monotonic()
    assert run(tiny, work, kills=0)["done"] == 14
    return results(work / "runs"), time.monotonic() - started


@pytest.fixture
def quiet(undisturbed) -> dict[str, tuple]:
    return undisturbed[0]


@pytest.mark.parametrize(("kills", "jobs"), [(22, 1), (4, 2)])
def test_a_grid_killed_at_random_moments_ends_as_if_nothing_had_happened(tiny, tmp_path, undisturbed, kills, jobs):
    calm, seconds = undisturbed
    longest = seconds / 8 if jobs == 1 else seconds / 3  # so that the grid cannot be through before the last kill
    report = run(tiny, tmp_path / "killed", kills, longest, "--jobs", str(jobs))
    assert report["kills"] == kills
    assert (report["lost"], report["repeated"]) == ([], [])
    assert results(tmp_path / "killed" / "runs") == calm


def start(tiny: Path, work: Path, *more: str) -> subprocess.Popen:
    program = [sys.executable, "-m", "cakdbench", *command(tiny, work, *more)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, *words: str) -> None:
    """Read what a process prints up to a line with all the words."""
    for line in process.stdout:
        if all(word in line for word in words):
            return
    raise AssertionError(f"the process ended without printing {words}")


def test_two_processes_on_one_store_share_the_work_and_do_nothing_twice(tiny, tmp_path, quiet):
    both = [start(tiny, tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    ends = [line for output in outputs for line in output.splitlines() if "epoch 4/4: " in line]
    assert len(ends) == 12
    assert results(tmp_path / "runs") == quiet


def test_ctrl_c_saves_all_lanes_and_says_how_to_go_on(tiny, tmp_path):
    process = start(tiny, tmp_path)
    wait_for(process, "scratch > vit_xs: epoch 2/4")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in output
    lanes = {path.parents[1].name for path in (tmp_path / "runs").glob("*/checkpoints/step-*.pt")}
    assert len(lanes) == 8
    steps = {max(path.name for path in (tmp_path / "runs" / lane / "checkpoints").iterdir())[:14] for lane in lanes}
    assert len(steps) == 1


def test_a_lane_with_a_damaged_checkpoint_goes_back_one_and_catches_up_in_a_group_of_its_own(tiny, tmp_path, quiet):
    process = start(tiny, tmp_path)
    wait_for(process, "fbt > vit_xs: epoch 2/4")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    newest = max((tmp_path / "runs").glob("kd-vit_xs-*/checkpoints/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    again = start(tiny, tmp_path)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert f"{newest} is damaged" in output
    assert results(tmp_path / "runs") == quiet
