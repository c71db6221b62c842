"""Eight local batches a step: one process with 8, two with 4 and four with 2 go the same way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.ranks import moves

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone():
    return moves()


@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_do_not_depend_on_how_the_local_batches_are_spread(alone, tmp_path, processes):
    command = [sys.executable, "-m", "tests.train.ranks", str(tmp_path), str(processes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in range(processes):
        spread = torch.load(tmp_path / f"{processes}-{rank}.pt", weights_only=True)
        assert spread.keys() == alone.keys()
        for name, move in alone.items():
            assert (spread[name] - move).norm() <= 1e-4 * move.norm() + 1e-7, (rank, name)


def ends(folder: Path, act: str) -> list[str]:
    command = [sys.executable, "-m", "tests.train.ranks", str(folder), "2", act]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = [(folder / f"{act}-{rank}.txt").read_text() for rank in (0, 1)]
    assert "\n" not in "".join(told)
    return told


def test_one_process_without_memory_ends_the_run_in_a_line_of_each(tmp_path):
    other, own = ends(tmp_path, "crowded")
    assert own.startswith("out of memory in process 1 of 2, 1 at step 2: OutOfMemoryError: CUDA out of memory")
    assert "--max-lanes" in own and "the same command goes on" in own
    assert other.startswith("process 0 of 2 has lost another one, 1 at step 2: see what")


def test_a_method_that_fails_in_one_process_ends_the_run_in_a_line_of_each(tmp_path):
    other, own = ends(tmp_path, "wrong")
    assert own.startswith("process 1 of 2 failed and others did not, 1 at step 2: ValueError: an odd image (ranks.py")
    assert other.startswith("process 0 of 2 has lost another one, 1 at step 2: see what")


def test_a_method_that_fails_in_all_processes_fails_by_itself(tmp_path):
    told = ends(tmp_path, "broken")
    (one, one_end), (other, other_end) = (text.split("; step ") for text in told)
    assert "at step 2: ValueError: a bug, told otherwise in process 0" in one and "in process 1" in other
    assert one_end == other_end and not one_end.startswith("2:")  # the other lane went on, in step


def test_accuracies_under_corruptions_are_of_the_images_of_all_processes(tmp_path):
    first, second = map(json.loads, ends(tmp_path, "noisy"))
    assert first == second and [name for name, *_ in first] == 2 * ["gaussian_noise=0.12", "shot_noise=30"]
    for _, top1, ema_top1, own, own_ema in first:
        assert (top1, ema_top1) == (own, own_ema)


def test_the_step_is_one_and_goes_somewhere(alone):
    assert sum(move.norm() > 0 for move in alone.values()) > 50
