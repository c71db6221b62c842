"""How long a store of 10,000 runs keeps a command: `pytest tests/benchmarks/test_store_speed.py -n 0 -s`.

Every command is a process of its own, imports included. Written are wall seconds and seconds of the CPU.
"""

import os
import subprocess
import sys
import time

import pytest

from cakdbench.records import Record
from cakdbench.store import Store, run_key
from tests.cli_lab import Shell, make_folder
from tests.results.lab import entries

RUNS = 10_000
PLAN = ("run", "--methods", "all", "--pairs", "demo", "--dry-run", "--cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of finished demo runs under seeds of their own, with 1 kB in place of each student."""
    store = Store(tmp_path_factory.mktemp("large") / "runs")
    store.create()
    sources = [(path, Record.model_validate(entry["record"])) for path, entry in entries().items()]
    for number in range(RUNS):
        path, record = sources[number % len(sources)]
        identity = record.identity.model_copy(update={"seed": 100 + number})
        run = store.run(identity)
        run.open(identity, record.label, record.recipe_name)
        run.write(run.predictions, path.with_suffix(".npy").read_bytes())
        run.write(run.student, bytes(1000))
        run.finish(record.model_copy(update={"identity": identity, "key": run_key(identity)}))
    return store.root


def measure(name, *arguments):
    before, started = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "cakdbench", *arguments], capture_output=True, text=True)
    wall, after = time.monotonic() - started, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    assert done.returncode == 0, done.stderr
    print(f"\n| {name} | {wall:.1f} s | {cpu:.1f} s |")
    return done.stdout


@pytest.mark.parametrize("index", ["with its index", "without an index"])
def test_status(large, index):
    if index == "without an index":
        (large / "index.jsonl").unlink()
    assert f"{RUNS:,} done" in measure(f"status, {index}", "status", "--store", str(large))


def test_results(large, tmp_path):
    measure("results, as CSV", "results", str(large), "-o", str(tmp_path / "runs.csv"))


def test_boards(large, tmp_path):
    places = "--boards", str(tmp_path), "--results", str(tmp_path / "none")
    measure("leaderboard --pairs demo", "leaderboard", "--pairs", "demo", "--store", str(large), *places)


def test_plan(large):
    measure("run --dry-run, all methods on demo", *PLAN, "--store", str(large))


def test_the_second_run_of_a_finished_grid(tmp_path):
    shell = Shell(make_folder(tmp_path / "data", 4, 3), tmp_path)
    command = shell.command("--methods", "all")
    measure("run, 19 methods on one pair, 2 epochs", *command)
    assert "epoch" not in measure("the same again", *command)
