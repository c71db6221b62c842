"""A grid with a chain of three students and a student of two teachers, for tests of whoever computes it."""

import contextlib
import time
from pathlib import Path

import psutil

from cakdbench.store import Store, checkpoint_files
from tests.cli_lab import Shell

AT = "timm:folder/tiny"
FIRST = f"run:kd:resnet_m>vit_xs@{AT}"
SECOND = f"run:kd:{FIRST}>mobilenet_s@{AT}"
PAIRS = f"{SECOND}>resnet_s@{AT},resnet_m+swin_m>mixer_xs@{AT}"
RUNS = 2 + 4 + 2
"""Trainings of teachers, runs of kd, and scratch beside the last students."""
FILES = ("identity.json", "predictions.npy", "student.safetensors")


def two_teachers(folder: Path) -> Path:
    """Write the entries of both teachers into a file."""
    entry = f'[[teachers]]\nmodel = "{{}}"\ndataset = "{AT}"\ntrain = "demo_teacher"\n'
    path = folder / "two.toml"
    path.write_text(entry.format("resnet_m") + entry.format("swin_m"))
    return path


def grid(shell: Shell, teachers: Path, *more: str, settings: tuple[str, ...]) -> list[str]:
    """The command of the grid; it saves often."""
    words = "--methods", "kd", "--teachers", str(teachers), "--checkpoint-seconds", "0.2", *more
    return shell.command(*words, pairs=PAIRS, settings=settings)


def wait_for_training(store: Path, student: str, patience: float = 900) -> None:
    """Return once a student of kd has a checkpoint and is not done."""
    end = time.monotonic() + patience
    while not any(checkpoint_files(run.checkpoints) for run in Store(store).runs() if f"kd-{student}-" in run.key):
        assert time.monotonic() < end, f"{student} does not train"
        time.sleep(0.05)


def kill(processes: list[psutil.Process]) -> None:
    """Kill what a moment ago was at work."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def files(store: Path) -> dict[str, bytes]:
    """The content of what a grid leaves, by run and name."""
    return {f"{run.key}/{name}": (run.path / name).read_bytes() for run in Store(store).runs() for name in FILES}
