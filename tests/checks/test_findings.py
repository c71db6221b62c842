"""What `cakdbench check` says of methods that break the contract, one rule each."""

import os
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from cakdbench.checks import check_method
from cakdbench.checks.check import CHECKS, _run
from cakdbench.checks.lab import Fault, Lab
from cakdbench.checks.training import _launch, two_processes
from cakdbench.method import Method, Step
from cakdbench.methods.kd import KD
from cakdbench.registry import get_method, load_file


class Sound(KD):
    """KD under another name; the methods below each break one rule."""

    id, title, paper, year = "sound", "Sound", "nobody", None

    def distill_step(self, batch):
        student = self.student(batch.images)
        return Step(student.logits, {"label": batch.label_loss(student.logits)} | self.more(batch, student))

    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square().mean()}


class NoEvents(Sound):
    pass


class Undocumented(Sound):
    """Does not say what its setting is."""

    @dataclass(frozen=True)
    class Config:
        scale: float = 1.0


class Mute(Sound):
    """Refuses without saying why."""

    @classmethod
    def refuses(cls, teacher, student, config):
        return "no"


class RefusesAll(Sound):
    """Refuses whatever it is given."""

    @classmethod
    def refuses(cls, teacher, student, config):
        return "this one is for another kind of model"


class WrongVariant(Sound):
    """Misspells a setting."""

    variants = {"odd": {"temprature": 1.0}}


class NoScalar(Sound):
    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square()}


class NoStep(Sound):
    def distill_step(self, batch):
        return self.student(batch.images).logits.sum()


class InfiniteSlope(Sound):
    def more(self, batch, student):
        return {"more": (batch.teacher.logits.sum() + 0 * student.logits.sum()).relu().sqrt() * 0 + _root(student)}


def _root(student):
    return (student.logits - student.logits.detach()).square().sum().sqrt()


class Overflows(Sound):
    def more(self, batch, student):
        return {"more": (student.logits.half() * 1e4).square().mean().float()}


class Detaches(Sound):
    def distill_step(self, batch):
        student = self.student(batch.images)
        return Step(student.logits, {"label": batch.label_loss(student.logits.detach().requires_grad_())})


class TrainsTheTeacher(Sound):
    needs = frozenset({"logits", "model"})

    def more(self, batch, student):
        self.teacher.train()
        return super().more(batch, student)


class ReadsMore(Sound):
    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square().mean() + 0 * batch.teacher.stages[0].mean()}


class RunsTheTeacher(Sound):
    def more(self, batch, student):
        return {"more": (student.logits - self.teacher(batch.images).logits).square().mean()}


class ReadsMoreOfSome(Sound):
    needs = frozenset({"logits", "stages"})

    def build(self):
        if self.student.kind == "cnn":
            self.needs = frozenset({"logits"})

    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square().mean() + 0 * batch.teacher.stages[0].mean()}


class Opposed(Sound):
    """Its critic reaches the student, as the features it is given are not detached."""

    detached = False

    def build(self):
        self.critic = nn.Linear(10, 1)

    def extra_optimizers(self):
        return [torch.optim.Adam(self.critic.parameters())]

    def distill_step(self, batch):
        made = super().distill_step(batch)
        given = made.logits.detach() if self.detached else made.logits
        return Step(made.logits, made.losses, {"critic": self.critic(given).square().mean()})


class TrainsItsOpponent(Opposed):
    detached = True

    def more(self, batch, student):
        return {"more": -self.critic(student.logits).square().mean() + 0 * batch.teacher.logits.mean()}


class OneOptimizerTooMany(Sound):
    def extra_optimizers(self):
        return [torch.optim.Adam(self.student.parameters())]


class DeclaresMore(Sound):
    needs = frozenset({"logits", "stages"})


class WantsIndices(Sound):
    def more(self, batch, student):
        return {"more": -student.logits.log_softmax(1)[torch.arange(len(batch.target)), batch.target].mean()}


class OtherWithOneHot(Sound):
    def more(self, batch, student):
        return {"more": student.logits.square().mean() * batch.target.ndim}


class OneBatchSize(Sound):
    def more(self, batch, student):
        return {"more": (student.logits * torch.ones(4, 1)).square().mean()}


class Seeds(Sound):
    def more(self, batch, student):
        torch.manual_seed(0)
        return super().more(batch, student)


class SeedsNumpy(Sound):
    def build(self):
        np.random.seed(0)


class BrokenVariant(Sound):
    """One of its variants divides by zero."""

    @dataclass(frozen=True)
    class Config:
        """Attributes:
        scale: of its loss.
        """

        scale: float = 1.0

    variants = {"none": {"scale": 0.0}}

    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square().mean() / self.config.scale}


class OtherLogits(Sound):
    def distill_step(self, batch):
        made = super().distill_step(batch)
        return Step(made.logits[:, :5], made.losses)


class LivesInTheStudent(Sound):
    def build(self):
        self.student.net.adapter = nn.Linear(10, 10)

    def more(self, batch, student):
        return {"more": self.student.net.adapter(student.logits).square().mean()}


class LeavesAHook(Sound):
    def build(self):
        self.student.net.register_forward_hook(lambda *_: None)


class Idle(Sound):
    def build(self):
        self.idle = nn.Linear(3, 3)


class Forgets(Sound):
    def build(self):
        self.seen = 0

    def more(self, batch, student):
        self.seen += 1
        return {"more": self.seen * student.logits.square().mean()}


class CannotLoad(Sound):
    def get_extra_state(self):
        return {"batch": slice(3)}

    def set_extra_state(self, state):
        raise RuntimeError("no way")


class WritesToTheBatch(Sound):
    def more(self, batch, student):
        batch.teacher.logits.add_(torch.arange(10.0))
        return super().more(batch, student)


class StaysBehind(Sound):
    def more(self, batch, student):
        return {"more": (student.logits - batch.teacher.logits).square().mean() * torch.ones(1)}


class Shares(Sound):
    seen = 0

    def more(self, batch, student):
        Shares.seen += 1
        return {"more": Shares.seen * student.logits.square().mean()}


@dataclass(frozen=True)
class Broken:
    method: type[Method]
    check: str
    words: str


BROKEN = [
    Broken(NoEvents, "described", "no docstring"),
    Broken(WrongVariant, "described", "temprature"),
    Broken(Mute, "refusals have reasons", "is refused with 'no'"),
    Broken(RefusesAll, "refusals have reasons", "every direction is refused"),
    Broken(NoScalar, "finite in fp32", "is no scalar"),
    Broken(NoStep, "finite in fp32", "distill_step gave Tensor"),
    Broken(InfiniteSlope, "finite in fp32", "is not finite"),
    Broken(Overflows, "finite under bf16", "'more' is inf"),
    Broken(Detaches, "trains the student, not the teacher", "no gradient reaches student."),
    Broken(TrainsTheTeacher, "trains the student, not the teacher", "the teacher changed"),
    Broken(ReadsMore, "needs what it declares", "uses stages of the teacher, and does not declare it"),
    Broken(RunsTheTeacher, "needs what it declares", "uses model of the teacher"),
    Broken(DeclaresMore, "needs what it declares", "declares to need stages, and never uses it"),
    Broken(ReadsMoreOfSome, "needs what it declares", "cnn > cnn: uses stages"),
    Broken(OtherLogits, "finite in fp32", "the logits are (4, 5), not (4, 10)"),
    Broken(Opposed, "an adversary keeps to itself", "critic reach student."),
    Broken(TrainsItsOpponent, "an adversary keeps to itself", "more reach critic."),
    Broken(OneOptimizerTooMany, "an adversary keeps to itself", "parameters of the student"),
    Broken(BrokenVariant, "every variant steps", "'more' is inf"),
    Broken(SeedsNumpy, "leaves seeds alone", "it seeds numpy"),
    Broken(WritesToTheBatch, "alone as beside others", "after it in the same pass, kd trains to another"),
    Broken(Undocumented, "described", "the setting scale is not explained"),
    Broken(WantsIndices, "every form of labels", "IndexError"),
    Broken(OtherWithOneHot, "every form of labels", "with one-hot labels"),
    Broken(OneBatchSize, "odd batch sizes", "RuntimeError"),
    Broken(Seeds, "leaves seeds alone", "it seeds torch"),
    Broken(LivesInTheStudent, "exported student is plain", "adapter"),
    Broken(LeavesAHook, "exported student is plain", "a hook stays on student.net"),
    Broken(Idle, "extra parameters move", "idle.bias got no gradient"),
    Broken(Forgets, "state survives a checkpoint", "after a resume"),
    Broken(CannotLoad, "state survives a checkpoint", "its state cannot be loaded"),
    Broken(StaysBehind, "device", "makes a tensor on the CPU (test_findings.py, line"),
    Broken(Shares, "alone as beside others", "beside other methods it trains to another"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.method.__name__)
def test_a_broken_rule_is_found_and_the_finding_says_what_to_do(broken):
    passed, detail, hint, _ = _run(CHECKS[broken.check], Lab(broken.method))
    assert not passed
    assert broken.words in detail
    assert len(hint.split()) > 2


@pytest.mark.parametrize("check", CHECKS)
def test_the_sound_method_passes(check):
    assert _run(CHECKS[check], Lab(Sound))[0]


def test_a_method_that_refuses_everything_is_not_tried_further():
    assert [each.title for each in check_method(Lab(RefusesAll))] == ["described", "refusals have reasons"]


class Raises(Sound):
    """Cannot step."""

    def distill_step(self, batch):
        raise ValueError("no such layer")


def test_a_method_that_cannot_step_is_told_so_once():
    *_, last = findings = list(check_method(Lab(Raises)))
    assert len(findings) == 3 and last.detail == "ValueError: no such layer"
    assert "test_findings.py, line" in last.hint


UPDATES_AT_ONCE = '''
"""Keeps a running mean of what it saw, renewed batch by batch."""
import torch
from cakdbench.method import Method, Step
from cakdbench.registry import register

@register("at_once", title="At once", paper="nobody", url="")
class AtOnce(Method):
    """Its second local batch sees what the first left."""

    def build(self):
        self.register_buffer("mean", torch.zeros(self.student.num_classes))

    def distill_step(self, batch):
        logits = self.student(batch.images).logits
        loss = (logits - self.mean).square().mean() + 0 * batch.teacher.logits.mean()
        self.mean.lerp_(batch.teacher.logits.mean(0), 0.9)
        return Step(logits, {"label": batch.label_loss(logits), "mean": loss})
'''


def test_the_command_prints_the_table_and_ends_with_1_where_a_check_fails(shell, tmp_path):
    path = tmp_path / "at_once.py"
    path.write_text(UPDATES_AT_ONCE)
    code, output = shell("check", str(path))
    assert code == 1
    assert "with two processes it trains to another mean" in output and "apply it in step_end" in output
    assert output.count(" ok ") == len(CHECKS)


DIES_ON_ONE_RANK = '''
"""Fails in one of two processes."""
import os
from cakdbench.methods.kd import KD
from cakdbench.registry import register

@register("dies_on_one", title="Dies on one", paper="nobody", url="")
class DiesOnOne(KD):
    """Depends on the rank."""

    def step_end(self):
        if os.environ.get("RANK") == "1":
            raise RuntimeError("the second half is missing")
'''


def test_one_process_of_two_that_fails_is_a_finding_with_its_last_words(tmp_path):
    path = tmp_path / "dies_on_one.py"
    path.write_text(DIES_ON_ONE_RANK)
    (name,) = load_file(path)
    with pytest.raises(Fault, match="process 1 of two failed: .*the second half is missing") as found:
        two_processes(Lab(get_method(name)), [path])
    assert "depends on the rank" in found.value.hint


def test_two_processes_that_do_not_end_are_killed(tmp_path, monkeypatch):
    groups = []

    class Program(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            groups.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Program)
    with pytest.raises(Fault, match="wait for each other") as found:
        _launch([str(tmp_path), "kd"], patience=1.0)  # they have not even made their imports
    assert "equally often" in found.value.hint
    with pytest.raises(ProcessLookupError):
        os.killpg(*groups, 0)


@pytest.mark.parametrize("name, words", [("nope", "unknown method"), ("nope.py", "no file at nope.py")])
def test_an_unknown_method_or_file_is_named(shell, name, words):
    code, output = shell("check", name)
    assert code == 2 and words in output
