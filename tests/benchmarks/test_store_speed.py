"""How long a store of 10,000 runs keeps a command: `pytest tests/benchmarks/test_store_speed.py -n 0 -s`.

Every command is a process of its own, imports included.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cakdbench.records import Record
from cakdbench.store import Store, run_key
from tests.cli_lab import Shell, make_folder
from tests.results.lab import entries

RUNS = 10_000
PLAN = ("run", "--methods", "all", "--pairs", "demo", "--dry-run", "--cpu")
WITHOUT_INDEX = "status, without an index"


def fill(root: Path, runs: int) -> Path:
    """Make a store of finished demo runs under seeds of their own, with 1 kB in place of each student."""
    store = Store(root)
    store.create()
    sources = [(path, Record.model_validate(entry["record"])) for path, entry in entries().items()]
    for number in range(runs):
        path, record = sources[number % len(sources)]
        identity = record.identity.model_copy(update={"seed": 100 + number})
        run = store.run(identity)
        run.open(identity, record.label, record.recipe_name)
        run.write(run.predictions, path.with_suffix(".npy").read_bytes())
        run.write(run.student, bytes(1000))
        run.finish(record.model_copy(update={"identity": identity, "key": run_key(identity)}))
    return store.root


def commands(root: Path, work: Path) -> dict[str, list[str]]:
    """Return what is measured, by its name; the index is taken away before the command that is to go without."""
    place = ["--store", str(root)]
    boards = ["--boards", str(work / "boards"), "--results", str(work / "none")]
    return {
        WITHOUT_INDEX: ["status", *place],
        "status": ["status", *place],
        "results -o runs.csv": ["results", str(root), "-o", str(work / "runs.csv")],
        "leaderboard --pairs demo": ["leaderboard", "--pairs", "demo", *place, *boards],
        "run --methods all --pairs demo --dry-run": [*PLAN, *place],
    }


def measure(command: list[str]) -> tuple[float, str]:
    """Return the wall seconds of a command, and what it printed."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "cakdbench", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, done.stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("large") / "runs", RUNS)


def test_commands(large, tmp_path):
    for name, command in commands(large, tmp_path).items():
        if name == WITHOUT_INDEX:
            (large / "index.jsonl").unlink()
        seconds, output = measure(command)
        print(f"\n| {name} | {seconds:.1f} s |")
        assert not name.startswith("status") or f"{RUNS:,} done" in output


def test_the_second_run_of_a_finished_grid(tmp_path):
    shell = Shell(make_folder(tmp_path / "data", 4, 3), tmp_path)
    command = shell.command("--methods", "all")
    for name in ("all methods on one pair, 2 epochs", "the same again"):
        seconds, output = measure(command)
        print(f"\n| {name} | {seconds:.1f} s |")
    assert "epoch 1/" not in output
