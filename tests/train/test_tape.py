"""Tapes file by file: what is recorded, what is replayed, and what becomes of damage, interruptions and full disks."""

import resource
import shutil
from pathlib import Path

import pytest
import torch

from cakdbench.train.tape import Tape
from cakdbench.train.trainer import Interrupted
from tests.train.training import Training, same, short_recipe

METHODS = ("kd", "rkd", "cc")
NUMBERS = {"evaluation.every": 2}


def trained(tape=None, methods=METHODS, **options) -> Training:
    return Training(methods, short_recipe(**NUMBERS), tape=tape, **options).run()


@pytest.fixture(scope="module")
def live() -> Training:
    return trained()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tape")
    training = trained(folder, ["kd"])
    assert training.loads == 1 and not training.said
    return folder


@pytest.fixture
def tape(recorded, tmp_path):
    """A copy of a whole tape, to be damaged."""
    return shutil.copytree(recorded, tmp_path / "tape")


def equal(one: Training, other: Training) -> bool:
    return all(same(one.weights(label), other.weights(label)) for label in METHODS)


def whole(folder) -> dict:
    return {part: sorted(Tape(folder).files(part)) for part in ("logits", "pooled")}


def test_a_whole_tape_is_replayed_without_the_teacher(tape, live):
    assert whole(tape) == {"logits": [0, 1], "pooled": [0, 1]} and not list(tape.glob(".*.tmp"))
    training = trained(tape)
    assert equal(training, live) and training.loads == 0


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_epoch_is_computed_and_recorded_again(tape, live, harm):
    before = {path.name for path in tape.glob("*.npy")}
    path = Tape(tape).files("logits")[1]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.unlink() if harm == "gone" else path.write_bytes(content if harm == "flipped" else content[:-100])
    training = trained(tape)
    assert equal(training, live) and training.loads == 1
    assert len(training.said) == (harm != "gone") and all("damaged file" in text for text in training.said)
    assert {path.name for path in tape.glob("*.npy")} == before


@pytest.mark.parametrize("harm", ["flipped", "unreadable"])
def test_a_damaged_epoch_that_cannot_be_removed_is_not_replayed(tape, live, monkeypatch, harm):
    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    path = Tape(tape).files("logits")[1]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.unlink()
    path.write_bytes(content) if harm == "flipped" else path.mkdir()  # reading it is an OSError, for root as well
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Tape, "acquire", lambda self: False)  # nor can anything be recorded
    training = trained(tape)
    assert equal(training, live) and training.loads == 1 and "damaged file" in training.said[0]


def test_a_recording_that_stops_in_an_epoch_leaves_nothing_of_it_and_the_next_pass_records_it(tmp_path, live):
    with pytest.raises(Interrupted):
        trained(tmp_path, stop_at=6)  # of two epochs of four steps
    assert whole(tmp_path) == {"logits": [0], "pooled": [0]} and not list(tmp_path.glob(".*.tmp"))
    resumed = Training(METHODS, short_recipe(**NUMBERS), tape=tmp_path)
    halves = Training(METHODS, short_recipe(**NUMBERS), stop_at=6)
    with pytest.raises(Interrupted):
        halves.run()
    for label, state in halves.saved[-len(METHODS) :]:
        resumed.lane(label).load(state)
    assert equal(resumed.run(), live)
    assert whole(tmp_path) == {"logits": [0], "pooled": [0]}  # of an epoch begun in its middle nothing is kept
    assert equal(trained(tmp_path), live) and whole(tmp_path) == {"logits": [0, 1], "pooled": [0, 1]}


def test_training_goes_on_in_the_middle_of_an_epoch_from_tape(tape, live):
    halves = Training(METHODS, short_recipe(**NUMBERS), tape=tape, stop_at=6)
    with pytest.raises(Interrupted):
        halves.run()
    resumed = Training(METHODS, short_recipe(**NUMBERS), tape=tape)
    for label, state in halves.saved[-len(METHODS) :]:
        resumed.lane(label).load(state)
    assert equal(resumed.run(), live) and halves.loads + resumed.loads == 0


def test_lanes_that_need_more_have_the_teacher_live_and_record_it(tmp_path, live):
    mixed = trained(tmp_path, (*METHODS, "fitnet"))
    assert equal(mixed, live) and mixed.loads == 1
    again = trained(tmp_path, (*METHODS, "fitnet"))
    assert equal(again, live) and again.loads == 1
    assert trained(tmp_path).loads == 0


def test_a_tape_of_class_tokens_gives_the_same_students(tmp_path):
    both = [trained(folder, teacher="vit_m", student="resnet_s") for folder in (None, tmp_path, tmp_path)]
    assert equal(both[0], both[1]) and equal(both[0], both[2]) and both[2].loads == 0


def test_while_one_process_records_another_computes(tape, live, tmp_path):
    holder = Tape(tmp_path / "new")
    assert holder.acquire()
    training = trained(tmp_path / "new")
    assert equal(training, live) and training.loads == 1 and whole(tmp_path / "new") == {"logits": [], "pooled": []}
    holder.release()
    trained(tmp_path / "new")
    assert whole(tmp_path / "new") == {"logits": [0, 1], "pooled": [0, 1]}


def test_a_disk_that_takes_no_more_stops_the_tape_and_not_the_training(tmp_path, live):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        training = trained(tmp_path / "tape")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert equal(training, live)
    assert len(training.said) == 1 and "is not recorded further" in training.said[0]
    assert whole(tmp_path / "tape") == {"logits": [], "pooled": []} and not list((tmp_path / "tape").glob(".*.tmp"))


def test_half_precision_is_kept_bit_for_bit(tmp_path):
    from cakdbench.models.staged import Output
    from cakdbench.train.tape import Recording

    tape, logits = Tape(tmp_path, 2), [torch.randn(3, 5).bfloat16() for _ in range(2)]
    recording = Recording(tape, 7, ["logits"])
    for row, rows in enumerate(logits):
        recording.add(row, Output(rows, None))
    recording.close()
    recording.keep()
    epoch = tape.open(7, ["logits"])
    for row, rows in enumerate(logits):
        assert epoch.output(row).logits.dtype == torch.bfloat16 and torch.equal(epoch.output(row).logits, rows)
