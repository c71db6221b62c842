"""Two processes of one `torchrun` give what one process gives, up to the order of summation."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cakdbench.store import Store
from tests.cli_lab import PAIR, Shell

SETTINGS = ("recipe.epochs=1", "recipe.global_batch=20", "recipe.local_batch=5", "teacher.epochs=1",
            "teacher.global_batch=20", "teacher.local_batch=5")  # fmt: skip
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "cakdbench"]


def command(shell: Shell) -> list[str]:
    return [
        "run", "--methods", "fbt,ofa", "--pairs", PAIR.replace("vit_xs", "resnet_s"),  # batch norm on both sides
        *shell.places(), "--boards", str(shell.boards), "--cpu", "--recipe", "demo", "--yes",
        "--teachers", str(shell.data / "teachers.toml"), "--set", *SETTINGS,
    ]  # fmt: skip


def students(store: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    runs = {(r.label, r.identity.student): r for r in Store(store).records()[0]}
    return {name: load_file(Store(store).run(record.identity).student) for name, record in runs.items()}


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_the_same_local_batches(tiny, tmp_path):
    alone, halves = Shell(tiny, tmp_path / "one"), Shell(tiny, tmp_path / "two")
    code, output = alone(*command(alone))
    done = subprocess.run([*LAUNCH, *command(halves)], capture_output=True, text=True, timeout=300)
    assert (code, done.returncode) == (0, 0), output + done.stdout + done.stderr
    for told in (output, done.stdout):
        assert told.count("epoch 1/1") == 5  # a teacher and four students, told once
    one, two = students(alone.store), students(halves.store)
    assert one.keys() == two.keys() and len(one) == 5
    for name in one:
        for key, value in one[name].items():
            if value.dtype.is_floating_point:
                assert two[name][key] == pytest.approx(value, abs=2e-3), (name, key)
            else:
                assert torch.equal(two[name][key], value), (name, key)
    records = Store(halves.store).records()[0]
    assert {record.conditions.processes for record in records} == {2}
