"""The store: states, locks, atomic files, damage."""

import json
import os
import platform
import resource
import signal
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from cakdbench.records import Identity
from cakdbench.store import Store, checkpoint_step, run_key, write_atomic
from cakdbench.train.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from cakdbench.utils.errors import StoreError

IDENTITY = {
    "method": {"id": "kd", "config": {"temperature": 1.0}, "version": 1},
    "student": "vit_xs",
    "teacher": {"model": "resnet_m", "sha256": "cd"},
    "dataset": {"name": "fashion_demo", "fingerprint": "ef"},
    "recipe": {"epochs": 2},
    "seed": 0,
}


def identity(**changes) -> Identity:
    return Identity.model_validate(IDENTITY | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"student": "vit_m"},
        {"seed": 1},
        {"teacher": None},
        {"precision": "bf16"},
        {"recipe": {"epochs": 3}},
        {"engine_version": 99},
        {"dataset": {"name": "fashion_demo", "fingerprint": "00"}},
        {"method": IDENTITY["method"] | {"version": 2}},
        {"method": IDENTITY["method"] | {"config": {"temperature": 2.0}}},
    ],
)
def test_the_key_depends_on_everything_in_the_identity(change):
    assert run_key(identity()) != run_key(identity(**change))


def test_equal_identities_have_equal_keys_whatever_the_order_of_their_fields():
    assert run_key(identity()) == run_key(Identity.model_validate(dict(reversed(IDENTITY.items()))))


def test_a_key_is_a_plain_file_name():
    key = run_key(identity(student="timm:vit_tiny_patch16_224", dataset={"name": "timm:torch/x", "fingerprint": ""}))
    assert "/" not in key and ":" not in key


@pytest.mark.parametrize("code", [{"version": 1, "source": "ab"}, {}])
def test_a_method_is_known_by_its_version_or_by_its_source(code):
    with pytest.raises(ValidationError, match="give one of them"):
        identity(method={"id": "kd", "config": {}} | code)


def test_identity_refuses_unknown_fields():
    with pytest.raises(ValidationError):
        identity(colour="red")


def test_a_new_run_is_planned_then_interrupted_then_failed(tmp_path):
    run = Store(tmp_path).run(identity())
    assert run.state() == "planned"
    assert run.acquire()
    run.open(identity(), "kd", "demo")
    save_checkpoint(run.checkpoints, 3, {"step": 3}, run.key)
    run.release()
    assert run.state() == "interrupted"
    run.fail("NaN at step 4")
    assert (run.state(), run.failure()) == ("failed", "NaN at step 4")
    run.open(identity(), "kd", "demo")
    assert run.failure() is None


HOLD = """
import sys, time
from pathlib import Path
from cakdbench.store import RunFolder
run = RunFolder(Path(sys.argv[1]))
assert run.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_held_by_another_process_cannot_be_taken_until_that_process_dies(tmp_path):
    run = Store(tmp_path).run(identity())
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert not run.acquire()
    assert run.state() == "running" and run.holder().pid == holder.pid
    assert f"{run.path / 'lock'} is held by process {holder.pid} on {platform.node()}" in run.lock.describe()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert run.state() == "planned" and run.holder() is None
    assert run.acquire()
    run.release()


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StoreError, match="nothing finished is lost"):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_record_that_cannot_be_read_is_set_aside_and_named(tmp_path):
    run = Store(tmp_path).run(identity())
    run.open(identity(), "kd", "demo")
    (run.path / "record.json").write_text('{"key": 3}')
    records, damage = Store(tmp_path).records()
    assert records == [] and "record.json" in damage[0]
    assert "record.json" in run.mend()
    assert run.state() == "planned"
    assert json.loads((run.path / "record.json.damaged").read_text()) == {"key": 3}


def test_half_written_files_of_a_killed_process_are_swept_away(tmp_path):
    run = Store(tmp_path).run(identity())
    run.checkpoints.mkdir(parents=True)
    litter = run.checkpoints / ".step-1.pt.77.tmp"
    litter.write_bytes(b"half")
    run.open(identity(), "kd", "demo")
    assert not litter.exists()


def test_the_last_two_checkpoints_are_kept_and_the_newest_whole_one_is_loaded(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "weights": torch.arange(step)}, "kd")
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint_step(tmp_path) == 3
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-7])
    state, damage = load_checkpoint(tmp_path, "kd")
    assert state["step"] == 2 and torch.equal(state["weights"], torch.arange(2))
    assert checkpoint_step(tmp_path) == 2 and (tmp_path / f"{newest.name}.damaged").exists()
    assert len(damage) == 1 and newest.name in damage[0]


def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    save_checkpoint(tmp_path, 1, {"weights": torch.zeros(100)}, "kd")
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    state, damage = load_checkpoint(tmp_path, "kd")
    assert state is None and damage
    assert checkpoint_step(tmp_path) == 0


def test_a_checkpoint_of_another_format_is_set_aside_with_its_reason(tmp_path):
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"step": 5, "tally": {}}, buffer)  # as the first format had it
    name = f"step-000000005-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.pt"
    (tmp_path / name).write_bytes(buffer.getvalue())
    state, problems = load_checkpoint(tmp_path, "kd")
    assert state is None and f"is of format 1, and this cakdbench reads format {FORMAT}" in problems[0]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N."])
def test_a_whole_file_that_is_no_checkpoint_is_set_aside(tmp_path, content):
    import hashlib

    (tmp_path / f"step-000000005-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    state, problems = load_checkpoint(tmp_path, "kd")
    assert state is None and len(problems) == 1 and "\n" not in problems[0] and checkpoint_step(tmp_path) == 0


def test_a_record_of_a_newer_cakdbench_is_neither_damaged_nor_computed_again(tmp_path):
    run = Store(tmp_path).run(identity())
    run.path.mkdir(parents=True)
    (run.path / "record.json").write_text('{"format": 3, "key": "x"}')
    with pytest.raises(StoreError, match="of format 3, which this cakdbench does not read"):
        run.record()
    with pytest.raises(StoreError, match="of format 3"):
        run.mend()
    assert (run.path / "record.json").exists()


def test_the_step_is_read_from_the_name_alone(tmp_path):
    (tmp_path / f"step-000000042-{'0' * 16}.pt").mkdir()  # nothing that could be loaded
    assert checkpoint_step(tmp_path) == 42


def test_without_checkpoints_there_is_nothing_to_load(tmp_path):
    assert load_checkpoint(tmp_path / "none", "kd") == (None, [])
    assert checkpoint_step(tmp_path / "none") == 0
