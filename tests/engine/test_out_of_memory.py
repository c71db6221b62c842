"""A lane that finds no memory leaves, comes back alone, and fails by name if it does not fit even then."""

import gc
import weakref

import pytest
import torch

from cakdbench.store import Store
from cakdbench.train.lane import Lane

BASE = """
import gc
import torch
from cakdbench.method import Method, Step
from cakdbench.registry import register

class Base(Method):
    def distill_step(self, batch):
        logits = self.student(batch.images).logits
        losses = {"label": batch.label_loss(logits)}
        self.act(batch, losses)
        return Step(logits, losses)

def beside_others():
    return sum(issubclass(type(thing), Method) for thing in gc.get_objects()) > 1

class Hungry(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")
"""
METHODS = {
    "too_big": "def act(self, batch, losses):\n"
    "        if batch.step == 2:\n"
    "            losses['label'] = Hungry.apply(losses['label'])",
    "fits_alone": "def act(self, batch, losses):\n"
    "        if batch.step == 3 and beside_others():\n"
    '            raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
    "builds_alone": "def act(self, batch, losses): pass\n\n"
    "    def build(self):\n"
    "        if beside_others():\n"
    "            raise MemoryError()",
    "sees_alone": "def act(self, batch, losses): pass\n\n"
    "    def build(self):\n"
    "        self.student.register_forward_pre_hook(self.look)\n\n"
    "    def look(self, student, images):\n"
    "        if not student.training and beside_others():\n"
    "            raise torch.OutOfMemoryError('in evaluation')",
}


@pytest.fixture
def hungry(shell):
    """A method file whose methods find no memory, each in a place of its own."""
    classes = [
        f'@register("{id}", title="", paper="", url="")\nclass M{number}(Base):\n    {body}\n'
        for number, (id, body) in enumerate(METHODS.items())
    ]
    path = shell.work / "hungry.py"
    path.write_text(BASE + "\n" + "\n".join(classes))
    return "--method-file", str(path)


def students(store) -> dict[str, str]:
    records, _ = Store(store).records()
    return {record.label: record.weights_sha256 for record in records if record.identity.student == "vit_xs"}


def test_what_does_not_fit_beside_others_is_tried_alone_and_only_what_does_not_fit_alone_fails(shell, hungry):
    code, output = shell.run("--methods", ",".join(METHODS), *hungry)
    assert code == 1 and "Traceback" not in output, output
    runs = {run.label(): run for run in Store(shell.store).runs()}
    assert {label for label, run in runs.items() if run.state() != "done"} == {"too_big"}
    for label, place in {"too_big": "at step 2", "fits_alone": "at step 3", "builds_alone": "while building",
                         "sees_alone": "at step 4"}.items():  # fmt: skip
        (line,) = [line for line in output.splitlines() if f"{label} found no memory {place}" in line]
        assert line.endswith("it is tried again alone, after the others")
    reason = runs["too_big"].failure()
    assert reason.startswith("out of memory at step 2: OutOfMemoryError: CUDA out of memory.")
    assert "its predicted peak is " in reason and "--precision bf16" in reason and "below 20" in reason
    assert output.index("fits_alone found no memory") < output.index("failed: out of memory")
    alone = students(shell.store)
    assert alone["fits_alone"] == alone["scratch"]  # it went on from nothing half done: they are the same method


def test_the_memory_of_a_lane_that_leaves_is_given_back_before_the_next_one_acts(monkeypatch):
    from tests.train.training import Training

    training = Training(["scratch", "kd"])
    gone, act = weakref.ref(training.lanes[0].method.student), Lane.local_step
    alive = []

    def step(lane, batch, local_index):
        if lane.label == "scratch":
            raise torch.OutOfMemoryError("no memory")
        alive.append(gone() is not None)
        act(lane, batch, local_index)

    monkeypatch.setattr(Lane, "local_step", step)
    gc.disable()
    try:
        training.run()
    finally:
        gc.enable()
    assert training.failed["scratch"].startswith("out of memory at step 0: OutOfMemoryError: no memory")
    assert alive and not any(alive)


def test_where_the_teachers_pass_finds_no_memory_half_of_the_lanes_come_later(shell, monkeypatch):
    from cakdbench.train.teaching import TeacherPass
    from cakdbench.train.trainer import Trainer

    teach, lanes = TeacherPass.__call__, []
    run = Trainer._run

    def remember(trainer):
        lanes[:] = [trainer]
        run(trainer)

    def crowded(self, samples):
        if len(lanes[0].lanes) > 2:
            raise torch.OutOfMemoryError("no room for the teacher")
        return teach(self, samples)

    monkeypatch.setattr(Trainer, "_run", remember)
    monkeypatch.setattr(TeacherPass, "__call__", crowded)
    code, output = shell.run("--methods", "dkd,rkd,cc,dist")
    assert code == 0, output
    again = [line for line in output.splitlines() if "found no memory in the teacher's pass" in line]
    bounds = [line.partition("in a group of ")[2][:1] for line in again]
    assert bounds == ["3", "3", "3", "2", "2"]  # of six lanes three leave, one, and one of those three again
    assert len(students(shell.store)) == 6
