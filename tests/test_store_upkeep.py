"""Damage in a store: told once with what to do, healed by the next run, checked by fsck; clean takes what is left."""

import json
import os
import platform
import shutil
import signal

import pytest
import torch
from safetensors.torch import save

from cakdbench.engine.upkeep import find_leftovers
from cakdbench.models.weights import state_sha256
from cakdbench.records import Record
from cakdbench.store import Store, canonical
from cakdbench.submissions.submit import Submitter, find_runs, submit
from cakdbench.train.checkpoint import load_checkpoint, save_checkpoint
from cakdbench.utils.errors import StoreError
from tests.cli_lab import Program, Shell
from tests.results.lab import entries

STATE = {"weight": torch.arange(3.0)}
WEIGHTS = save(STATE, {"note": "some weights"})
RECORDS = [
    (path, Record.model_validate(entry["record"] | {"weights_sha256": state_sha256(STATE)}))
    for path, entry in list(entries("kd").items())[:3]
]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A store of three finished runs of KD."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, tmp_path)
    store = Store(shell.store)
    store.create()
    for path, record in RECORDS:
        run = store.run(record.identity)
        run.open(record.identity, record.label, record.recipe_name)
        run.write(run.predictions, path.with_suffix(".npy").read_bytes())
        run.write(run.student, WEIGHTS)
        run.write(run.modules, b"what was trained beside it")
        run.finish(record)
    return shell


def first(shell):
    return Store(shell.store).run(RECORDS[0][1].identity)


def call(shell, *arguments):
    return shell(*arguments, "--store", str(shell.store))


def edit(path, before, after):
    path.write_bytes(path.read_bytes().replace(before, after, 1))


DAMAGE = {
    "student cut short": ("student.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-3])),
    "student flipped": ("student.safetensors", lambda path: edit(path, b"some", b"sane")),
    "student gone": ("student.safetensors", lambda path: path.unlink()),
    "predictions flipped": ("predictions.npy", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\7")),
    "identity gone": ("identity.json", lambda path: path.unlink()),
    "identity edited": ("identity.json", lambda path: edit(path, b'"seed":', b'"seed":1')),
    "record edited": ("record.json", lambda path: edit(path, b'"top1": ', b'"top1": 9')),
    "record gone": ("record.json", lambda path: path.unlink()),
    "sums emptied": ("SHA256SUMS", lambda path: path.write_text("")),
    "modules gone": ("modules.safetensors", lambda path: path.unlink()),
    "modules flipped": ("modules.safetensors", lambda path: edit(path, b"beside", b"beyond")),
    "record of another run": ("record.json", lambda path: path.write_text(RECORDS[1][1].model_dump_json())),
}


def test_submit_leaves_damaged_runs_out_and_names_them(shell):
    one, two, three = Store(shell.store).runs()
    one.student.unlink()
    two.identity_file.unlink()
    chosen = find_runs(["all"], Store(shell.store))
    done = submit(chosen, shell.work / "results", Submitter("A. Student"))
    assert [path.stem for path in done.written if path.suffix == ".json"] == [three.key]
    assert [one.key in done.damaged[0], two.key in done.damaged[1]] == [True, True]


@pytest.fixture(params=DAMAGE)
def damaged(shell, request):
    name, damage = DAMAGE[request.param]
    damage(first(shell).path / name)
    return name


def test_damage_is_told_of_by_every_reader_and_stops_no_other_run(shell, damaged):
    code, output = call(shell, "status")
    assert code == 0 and output.count(damaged) == 1 and "2 done, 1 damaged" in output
    code, output = call(shell, "leaderboard", "--pairs", "demo", "--boards", str(shell.boards))
    assert code == 0 and damaged in output
    code, output = call(
        shell, "submit", first(shell).key, "--by", "A. Student", "--results", str(shell.work / "results")
    )
    assert code in (1, 2) and damaged in output and len(output.splitlines()) == 1
    code, output = call(shell, "fsck")
    assert code == 1 and damaged in output and "3 runs checked, 1 damaged" in output


def test_repair_leaves_whole_runs_and_such_that_are_computed_again(shell, damaged):
    code, output = call(shell, "fsck", "--repair")
    assert code == 0 and damaged in output, output
    state = first(shell).state()
    assert state == ("done" if damaged in ("identity.json", "SHA256SUMS", "modules.safetensors") else "planned")
    code, output = call(shell, "fsck")
    assert code == 0 and ("no SHA256SUMS" in output) == (damaged == "SHA256SUMS")
    if state == "done":
        assert first(shell).check() == RECORDS[0][1]


def without_sums(shell):
    run = first(shell)
    run.sums_file.unlink()
    return run


def test_a_run_without_sums_is_compared_with_its_record(shell):
    run = without_sums(shell)
    code, output = call(shell, "status")
    assert code == 0 and "3 done" in output and output.count("no SHA256SUMS") == 1
    run.student.write_bytes(save({"weight": torch.zeros(3)}))
    for command in ("status", "fsck"):
        assert "student.safetensors: not what the run wrote" in " ".join(call(shell, command)[1].split())
    assert "student.safetensors" in Store(shell.store).records()[1][0]
    assert "student.safetensors" in run.mend() and run.state() == "planned"


def test_a_run_without_sums_gets_new_ones_when_it_is_repaired(shell):
    run = without_sums(shell)
    code, output = call(shell, "fsck")
    assert code == 0 and output.count("no SHA256SUMS") == 1 and not run.has_sums
    code, output = call(shell, "fsck", "--repair")
    assert code == 0 and "written for the files as they are" in output
    edit(run.record_file, b'"top1": ', b'"top1": 9')
    assert "record.json" in call(shell, "fsck")[1]


def test_what_fsck_finds_is_mended_by_the_next_run_though_size_and_date_are_the_old_ones(shell):
    run, store = first(shell), Store(shell.store)
    assert store.fault(run) is None
    store.index.save()
    date = run.student.stat().st_mtime_ns
    edit(run.student, b"some", b"sane")
    os.utime(run.student, ns=(date, date))
    assert Store(shell.store).fault(run) is None
    assert call(shell, "fsck")[0] == 1
    assert "student.safetensors" in Store(shell.store).fault(run)


def test_a_file_is_hashed_again_only_when_it_has_changed(shell):
    run = first(shell)
    assert Store(shell.store).fault(run) is None
    (shell.store / "index.jsonl").write_text("no JSON\n")
    assert [r.key for r in Store(shell.store).records()[0]] == sorted(record.key for _, record in RECORDS)
    assert len((shell.store / "index.jsonl").read_text().splitlines()) == 1 + len(RECORDS)
    assert len(Store(shell.store).records()[0]) == len(RECORDS)
    assert len((shell.store / "index.jsonl").read_text().splitlines()) == 1 + len(RECORDS)


def test_sums_are_those_of_sha256sum(shell):
    import hashlib

    for line in (first(shell).path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((first(shell).path / name).read_bytes()).hexdigest() == digest


def test_a_checkpoint_of_another_run_is_refused_and_set_aside(tmp_path):
    for name in ("kd", "fbt"):
        (tmp_path / name).mkdir()
        save_checkpoint(tmp_path / name / "checkpoints", 3, {"weights": torch.zeros(2)}, name)
    (own,) = (tmp_path / "fbt/checkpoints").iterdir()
    own.unlink()
    shutil.copy(next((tmp_path / "kd/checkpoints").iterdir()), tmp_path / "fbt/checkpoints")
    state, (told,) = load_checkpoint(tmp_path / "fbt/checkpoints", "fbt")
    assert state is None and "is of the run kd" in told
    assert [path.suffix for path in (tmp_path / "fbt/checkpoints").iterdir()] == [".damaged"]


def test_a_checkpoint_that_cannot_be_read_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step}, "kd")
    newest = max(tmp_path.iterdir())
    newest.unlink()
    newest.mkdir()
    state, (told,) = load_checkpoint(tmp_path, "kd")
    assert state == {"step": 1} and "cannot be read" in told
    save_checkpoint(tmp_path, 3, {"step": 3}, "kd")
    assert load_checkpoint(tmp_path, "kd")[0] == {"step": 3}


def test_a_checkpoint_is_not_written_where_the_store_has_gone(tmp_path):
    with pytest.raises(StoreError, match="nothing finished is lost"):
        save_checkpoint(tmp_path / "gone/checkpoints", 1, {}, "kd")
    assert list(tmp_path.iterdir()) == []


def unfinished(shell, seed, **changes):
    """An interrupted run."""
    identity = RECORDS[0][1].identity.model_copy(update={"seed": seed, **changes})
    run = Store(shell.store).run(identity)
    run.open(identity, "kd", "demo")
    save_checkpoint(run.checkpoints, 3, {"step": 3}, run.key)
    return run


def test_watch_shows_what_runs_where_until_ctrl_c(shell):
    running, failed = unfinished(shell, 91), unfinished(shell, 92)
    failed.fail("NaN at step 4")
    assert running.acquire("a small GPU")
    (running.path / "log.txt").write_text(
        "2026-01-01 00:00:00Z step 7/90: epoch 1/9: loss kd 1.0; 120 images/s; 12:05 left\n"
    )
    program = Program("status", "--watch", "--store", str(shell.store))
    program.wait_for("3 done, 1 running, 1 failed")
    program.wait_for("step 7/90, 120 images/s, 12:05 left", platform.node(), "a small GPU", str(os.getpid()))
    program.wait_for("failed", "NaN at step 4")
    os.kill(program.process.pid, signal.SIGINT)
    code, output = program.finish()
    running.release()
    assert code == 0 and "Traceback" not in output, output


def test_clean_shows_and_removes_what_nothing_needs_and_keeps_the_rest(shell):
    waiting, failed = unfinished(shell, 91), unfinished(shell, 92)
    failed.fail("NaN at step 4")
    replaced = unfinished(shell, 93, engine_version=0)
    held = unfinished(shell, 94)
    held.fail("once")
    assert held.acquire()
    done = first(shell)
    (done.path / "record.json.damaged").write_text("{}")
    (waiting.checkpoints / ".step.77.tmp").write_text("half")
    kept = {path for path in shell.store.rglob("*") if path.is_file()}
    code, output = call(shell, "clean", "--dry-run")
    assert code == 0 and kept == {path for path in shell.store.rglob("*") if path.is_file()}
    for words in ("failed (NaN at step 4)", "engine version 0", "record.json.damaged", ".step.77.tmp"):
        assert words in output, output
    assert call(shell, "clean")[0] == 2  # nobody can be asked
    code, output = call(shell, "clean", "--yes")
    assert code == 0, output
    held.release()
    assert not failed.path.exists() and not replaced.path.exists()
    assert held.path.exists() and waiting.state() == "interrupted"
    assert not (waiting.checkpoints / ".step.77.tmp").exists() and not (done.path / "record.json.damaged").exists()
    assert done.check() == RECORDS[0][1]


def test_clean_takes_nothing_of_a_run_that_was_finished_while_it_asked(shell):
    run = first(shell)
    record = run.record_file.read_bytes()
    run.record_file.unlink()
    run.fail("out of memory")
    (leftover,) = find_leftovers(Store(shell.store))
    run.record_file.write_bytes(record)
    assert not leftover.remove() and run.check() == RECORDS[0][1]


def test_clean_leaves_a_folder_that_another_process_has_begun_to_write_in(shell, monkeypatch):
    run = unfinished(shell, 91)
    run.fail("out of memory")
    (leftover,) = find_leftovers(Store(shell.store))
    monkeypatch.setattr("cakdbench.engine.upkeep._remove_empty", lambda run: (run.path / "identity.json").touch())
    assert not leftover.remove() and (run.path / "identity.json").exists()


def test_fsck_passes_over_checkpoints_that_go_while_it_reads(shell, monkeypatch):
    run = unfinished(shell, 91)
    gone = run.checkpoints / f"step-{1:09d}-{16 * '0'}.pt"
    monkeypatch.setattr("cakdbench.engine.upkeep.checkpoint_files", lambda folder: [gone])
    assert "0 damaged" in call(shell, "fsck")[1]


def test_a_link_in_circles_hides_no_run(shell):
    (shell.store / "loop").symlink_to("loop")
    assert len(Store(shell.store).records()[0]) == len(RECORDS)


def test_a_log_with_a_damaged_byte_is_printed(shell):
    (first(shell).path / "log.txt").write_bytes(b"step 1/8\xff\n")
    assert call(shell, "log", first(shell).key) == (0, "step 1/8\ufffd\n")


def test_an_unfinished_run_with_an_edited_identity_is_told_of(shell):
    run = unfinished(shell, 91)
    (run.path / "identity.json").write_text(canonical(RECORDS[0][1].identity))
    code, output = call(shell, "status", "--format", "json")
    (row,) = [row for row in json.loads(output) if row["state"] == "damaged"]
    assert row["key"] == run.key and "identity.json" in row["reason"]
