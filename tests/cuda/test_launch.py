"""Workers that share a GPU, beside each other and on Ray: one is killed, another one goes on from its checkpoints."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cakdbench.store import Store, checkpoint_files
from cakdbench.utils.device import device_name
from tests.cli_lab import SHORT, Shell

WAYS = {
    "local": ("--jobs", "2"),
    "ray, one on the GPU": ("--launcher", "ray", "--jobs", "2"),
    "ray, two on the GPU": ("--launcher", "ray", "--jobs", "2", "--gpu-share", "0.5"),
}
WORKERS = ("cakdbench.engine.launch.worker", "ray::_labour")


def workers(command: int) -> list[psutil.Process]:
    """Return the workers of a command; those of its own Ray cluster are children of its child."""
    found = []
    for child in psutil.Process(command).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            found += [child] * any(name in " ".join(child.cmdline()) for name in WORKERS)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_worker_costs_no_run(device, tiny, tmp_path, way):
    shell = Shell(tiny, tmp_path)
    epochs = ("recipe.epochs=4", "teacher.epochs=1")
    words = shell.command(
        "--methods", "kd,fbt", "--seeds", "0,1", "--checkpoint-seconds", "0.2", *WAYS[way], settings=(*SHORT, *epochs)
    )
    if device.type == "cuda":
        words.remove("--cpu")
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen([sys.executable, "-m", "cakdbench", *words], stdout=said, stderr=said)
        while process.poll() is None:  # a student has saved, and is not done
            begun = [run for run in Store(shell.store).runs() if "vit_xs" in run.key and not run.is_done]
            if any(map(checkpoint_files, (run.checkpoints for run in begun))) and workers(process.pid):
                break
            time.sleep(0.05)
        for worker in workers(process.pid)[:1]:
            os.kill(worker.pid, signal.SIGKILL)
        code = process.wait()
    text = (tmp_path / "said.txt").read_text()
    assert code == 0, text
    assert "lost" in text
    records, damage = Store(shell.store).records()
    assert len(records) == 7 and not damage
    assert {record.conditions.device for record in records} == {device_name(device)}
