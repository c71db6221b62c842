"""Experiment trackers: a curve a run, by whichever process computes it, that goes on where it was."""

import csv

import pytest

from cakdbench.engine.run_log import read_rows
from cakdbench.store import Store
from tests.cli_lab import Program, Shell

LONG = ("recipe.epochs=4", "recipe.global_batch=20", "recipe.local_batch=20", "teacher.epochs=1",
        "teacher.global_batch=20", "teacher.local_batch=20")  # fmt: skip


def curves(run):
    """The values of `metrics.csv` by name and step, speeds left out."""
    with open(run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = {(row["name"], int(row["step"])): float(row["value"]) for row in rows}
    assert len(values) == len(rows)
    return {name: value for name, value in values.items() if name[0] != "images_per_second"}


def events(run):
    """The same of TensorBoard's files, as its own reader shows them: of a purged step the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run.path / "tensorboard")).Reload()
    names = [name for name in reader.Tags()["scalars"] if name != "images_per_second"]
    read = [((name, event.step), event.value) for name in names for event in reader.Scalars(name)]
    assert len(dict(read)) == len(read)
    return dict(read)


def runs(shell):
    return {run.label(): run for run in Store(shell.store).runs() if run.recipe_name() == "demo"}


@pytest.fixture(scope="module")
def tracked(tiny, tmp_path_factory):
    """A grid that is killed in the third epoch and goes on, told to both trackers that keep files."""
    shell = Shell(tiny, tmp_path_factory.mktemp("tracked"))
    command = shell.command("--methods", "kd", "--track", "csv,tensorboard", "--jobs", "1", settings=LONG)
    program = Program(*command)
    program.wait_for("kd: epoch 2/4")
    program.process.kill()
    program.finish()
    code, output = shell(*command)
    assert code == 0, output
    return shell


def test_curves_are_those_of_the_log_and_go_on_after_a_kill(tracked):
    for run in runs(tracked).values():
        rows = read_rows(run.path / "losses.csv")
        expected = {("lr", int(row["step"])): float(row["lr"]) for row in rows}
        for name in (name for name in rows[0] if name.startswith("loss_")):
            expected |= {(f"loss/{name[5:]}", int(row["step"])): float(row[name]) for row in rows}
        for name, curve in (("train_top1", "accuracy/train"), ("top1", "accuracy/test")):
            expected |= {(curve, int(row["step"])): float(row[name]) for row in rows if row[name]}
        assert curves(run) == expected
        assert events(run) == pytest.approx(expected)


@pytest.mark.slow
def test_a_worker_tracks_its_own_runs(tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    code, output = shell.run("--methods", "dkd,dist,lskd,rkd", "--track", "csv", "--jobs", "2")
    assert code == 0, output
    assert len(runs(shell)) == 6 and all(("lr", 8) in curves(run) for run in runs(shell).values())


def test_wandb_has_a_run_of_its_own_for_each_lane(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    shell = Shell(tiny, tmp_path)
    code, output = shell.run("--methods", "kd", "--track", "wandb", settings=("recipe.epochs=1", *LONG[1:]))
    assert code == 0 and "left out" not in output, output
    for run in runs(shell).values():
        (folder,) = (run.path / "wandb").glob("offline-run-*")
        assert folder.name.endswith(run.key) and list(folder.glob("*.wandb"))


@pytest.mark.parametrize(("names", "words"), [("csw", "choose from csv, tensorboard, wandb"), ("csv,x", "'x'")])
def test_a_tracker_nobody_knows_is_refused_before_anything_starts(shell, names, words):
    code, output = shell.run("--track", names)
    assert code == 2 and words in output and not shell.store.exists()


def test_a_tracker_that_fails_is_told_of_and_changes_nothing(tracked, tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    (shell.store / runs(tracked)["kd"].key / "metrics.csv").mkdir(parents=True)  # where a file should be
    code, output = shell.run("--methods", "kd", "--track", "csv", settings=LONG)
    assert code == 0 and output.count("the tracker csv is left out from here on") == 1
    for label, run in runs(shell).items():
        told, plain = runs(tracked)[label].record(), run.record()
        assert (told.weights_sha256, told.history) == (plain.weights_sha256, plain.history)
    assert curves(runs(shell)["scratch"]) == curves(runs(tracked)["scratch"])
