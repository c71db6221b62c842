"""SIGKILL at random moments over a grid: nothing finished is lost or repeated, the weights are the undisturbed ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cli_lab import SHORT, Shell

from cakdbench.store import Store

PAIRS = "resnet_m>vit_xs@timm:folder/tiny,swin_m>resnet_s@timm:folder/tiny,resnet_m>mixer_xs@timm:folder/tiny"
GRID = (*(s for s in SHORT if "epochs" not in s), "recipe.epochs=4", "teacher.epochs=3")
KILLS = 22


def command(tiny: Path, work: Path, *more: str) -> list[str]:
    """The arguments of `cakdbench` for the grid."""
    teachers = work / "teachers.toml"
    entry = '[[teachers]]\nmodel = "{}"\ndataset = "timm:folder/tiny"\ntrain = "demo_teacher"\n'
    teachers.write_text(entry.format("resnet_m") + entry.format("swin_m"))
    shell = Shell(tiny, work, None)
    return [
        "run", "--methods", "fbt,ofa", "--pairs", PAIRS, *shell.places(), "--boards", str(work / "boards"), "--cpu",
        "--recipe", "demo", "--teachers", str(teachers), "--checkpoint-seconds", "0.2", *more, "--set", *GRID,
    ]  # fmt: skip


def results(store: Path) -> dict[str, tuple]:
    """What must not depend on interruptions, by key."""
    records, damage = Store(store).records()
    assert not damage
    return {r.key: (r.weights_sha256, r.predictions_sha256, r.result, r.history) for r in records}


def run(tiny: Path, work: Path, kills: int, longest: float = 5.0) -> dict:
    work.mkdir()
    script = Path(__file__).with_name("killing.py")
    arguments = [str(script), str(work / "runs"), str(kills), str(longest), "7", *command(tiny, work)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["code"] == 0, (work / "log.txt").read_text()[-3000:]
    return report


def test_a_grid_killed_at_random_moments_ends_as_if_nothing_had_happened(tiny, tmp_path):
    assert run(tiny, tmp_path / "quiet", kills=0)["done"] == 14
    report = run(tiny, tmp_path / "killed", kills=KILLS)
    assert report["kills"] >= 20
    assert (report["lost"], report["repeated"]) == ([], [])
    assert results(tmp_path / "killed" / "runs") == results(tmp_path / "quiet" / "runs")


def _start(tiny: Path, work: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "cakdbench", *command(tiny, work)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_on_one_store_share_the_work_and_do_nothing_twice(tiny, tmp_path):
    both = [_start(tiny, tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    trained = [line for output in outputs for line in output.splitlines() if "epoch 4/4" in line and "test" in line]
    assert len(trained) == len(set(trained)) == 12
    assert len(results(tmp_path / "runs")) == 14


def test_ctrl_c_saves_the_lanes_says_how_to_go_on_and_loses_no_step(tiny, tmp_path):
    process = _start(tiny, tmp_path)
    for line in process.stdout:
        if "epoch 2/4" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command" in output
    saved = list((tmp_path / "runs").glob("*/checkpoints/step-*.pt"))
    assert saved
    again = _start(tiny, tmp_path)
    output, _ = again.communicate()
    assert again.returncode == 0 and "epoch 1/4: " not in output.partition("mixer_xs")[0]


def test_a_lane_behind_the_others_catches_up_in_a_group_of_its_own(tiny, tmp_path):
    run(tiny, tmp_path / "whole", kills=0)
    behind = tmp_path / "behind"
    behind.mkdir()
    process = _start(tiny, behind)
    for line in process.stdout:
        if "epoch 2/4" in line and "fbt" in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    lane = next((behind / "runs").glob("kd-*/checkpoints"))
    for path in lane.iterdir():
        path.unlink()
    again = _start(tiny, behind)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert results(behind / "runs") == results(tmp_path / "whole" / "runs")
