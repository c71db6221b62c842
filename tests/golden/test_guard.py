"""The golden steps change with what a method computes, and with nothing else."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cakdbench.method import Method, Step
from cakdbench.methods.kd import kd_loss
from cakdbench.records import ENGINE_VERSION
from cakdbench.registry import get_method
from cakdbench.train import trainer
from cakdbench.utils.precision import force_fp32

from . import engine
from .__main__ import rewrite
from .files import ENGINE, HALF, RELATIVE, Golden, complaint, differences, read, write
from .steps import DIRECTIONS, Direction, steps_on, take_steps, version_of

PAIR = Direction("msa", "cnn")


def changed(method: type[Method], **attributes) -> type[Method]:
    """Return a subclass with other attributes, under the same id."""
    return type(method.__name__, (method,), attributes)


def scaled(method: type[Method], factor: float, **attributes) -> type[Method]:
    """Return the method with its last loss times a factor."""

    def distill_step(self, batch):
        step = method.distill_step(self, batch)
        name = list(step.losses)[-1]
        return Step(step.logits, step.losses | {name: factor * step.losses[name]}, step.adversary)

    return changed(method, distill_step=distill_step, variants={}, **attributes)


def test_steps_do_not_depend_on_what_ran_before():
    def run(*ids):
        return {method_id: take_steps(get_method(method_id), None, PAIR) for method_id in ids}

    torch.manual_seed(1)
    forth = run("crd", "fbt", "fcfd", "pcagl")
    torch.manual_seed(2)
    assert run("pcagl", "fcfd", "fbt", "crd") == forth


def test_steps_leave_the_default_dtype_and_the_random_state():
    state = torch.get_rng_state()
    take_steps(get_method("fcfd"), None, PAIR)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method_id", ["kd", "fitnet", "fbt", "pcagl"])
def test_a_changed_weight_is_seen(method_id):
    method = get_method(method_id)
    now = steps_on(scaled(method, 1 + 10 * RELATIVE), PAIR)
    reason = complaint(method_id, version_of(method), read(method_id), now)
    assert (
        f"raise version= in @register of {method_id} and regenerate with `python -m tests.golden {method_id}`" in reason
    )
    assert "or undo the change" in reason
    assert f"{method_id}, msa > cnn, step 1: loss" in reason


def test_a_changed_gradient_under_the_same_loss_is_seen():
    method = get_method("kd")

    def distill_step(self, batch):
        step = method.distill_step(self, batch)
        total = sum(step.losses.values())
        return Step(step.logits, step.losses | {"kd": step.losses["kd"] + 1e-3 * (total - total.detach())})

    now = steps_on(changed(method, distill_step=distill_step, variants={}), PAIR)
    sentences = differences(read("kd").steps, now)
    assert "kd, msa > cnn, step 1: student gradient" in "\n".join(sentences)
    assert not any("step 1: loss" in sentence for sentence in sentences)


def test_a_changed_start_of_an_extra_module_is_seen():
    method = get_method("fitnet")

    def build(self):
        method.build(self)
        for name, parameter in self.named_parameters():
            if not name.startswith("student."):
                parameter.data.mul_(1.001)

    now = steps_on(changed(method, build=build, variants={}), PAIR)
    assert differences(read("fitnet").steps, now)


def test_a_changed_variant_is_seen():
    method = get_method("kd")
    values = {"mdistiller_cifar": dict(method.variants["mdistiller_cifar"]) | {"temperature": 4.01}}
    sentences = differences(read("kd").steps, steps_on(changed(method, variants=values), PAIR))
    assert sentences and all(sentence.startswith("kd:mdistiller_cifar, ") for sentence in sentences)


def test_a_loss_that_leaves_float32_is_seen_in_half_precision_alone():
    method = get_method("kd")

    def distill_step(self, batch):
        step = method.distill_step(self, batch)
        loss = kd_loss.__wrapped__(step.logits, batch.teacher.logits)
        return Step(step.logits, step.losses | {"kd": loss})

    now = steps_on(changed(method, distill_step=distill_step, variants={}), PAIR)
    sentences = differences(read("kd").steps, now)
    assert sentences and all(sentence.startswith(f"kd, {PAIR}, {HALF}: ") for sentence in sentences)


@pytest.mark.parametrize("persistent", [True, False])
def test_state_that_is_not_saved_is_seen(persistent):
    class Counting(Projected):
        def build(self):
            super().build()
            self.register_buffer("steps", torch.zeros(()), persistent=persistent)

        def distill_step(self, batch):
            step = super().distill_step(batch)
            return Step(step.logits, step.losses | {"match": (1 + self.steps) * step.losses["match"]})

        def step_end(self):
            self.steps += 1

    assert (take_steps(Counting, None, PAIR, resume=True) == take_steps(Counting, None, PAIR)) == persistent


def test_a_changed_engine_is_seen(monkeypatch):
    monkeypatch.setattr(trainer, "LabelSmoothingCrossEntropy", lambda smoothing: nn.CrossEntropyLoss())
    reason = complaint(ENGINE, ENGINE_VERSION, read(ENGINE), engine.run_all())
    assert "raise records.ENGINE_VERSION and regenerate with `python -m tests.golden engine`" in reason


@force_fp32
def match(student, teacher):
    return nn.functional.mse_loss(student, teacher)


class Projected(Method):
    """Match pooled features through a linear map."""

    id = "projected"
    needs = frozenset({"pooled"})

    def build(self):
        self.projector = nn.Linear(self.student.width, self.teacher.width)

    def distill_step(self, batch):
        student = self.student(batch.images)
        loss = match(self.projector(student.pooled), batch.teacher.pooled)
        return Step(student.logits, {"label": batch.label_loss(student.logits), "match": loss})


class Rewritten(Method):
    """Do the same: other names, another module, one setting more that is off."""

    @dataclass(frozen=True)
    class Config:
        scale: float = 1.0

    id = "projected"
    needs = frozenset({"pooled", "stages"})

    def build(self):
        self.maps = nn.ModuleDict({"pooled": nn.Linear(self.student.width, self.teacher.width)})

    def _match(self, pooled, teacher):
        return self.config.scale * match(self.maps["pooled"](pooled), teacher.pooled)

    def distill_step(self, batch):
        student = self.student(batch.images, stages=True)
        losses = {"label": batch.label_loss(student.logits), "match": self._match(student.pooled, batch.teacher)}
        return Step(student.logits, losses)


@pytest.mark.parametrize("direction", DIRECTIONS[1:4], ids=str)
def test_rewriting_a_method_changes_nothing(direction):
    assert steps_on(Rewritten, direction) == steps_on(Projected, direction)


def test_only_a_raised_version_or_force_overwrites(tmp_path):
    def regenerate(method, force=False):
        return rewrite(method.id, version_of(method), steps_on(method, PAIR), force, tmp_path)

    assert regenerate(Projected) is None
    path = tmp_path / "projected.json"
    first = path.read_bytes()
    assert regenerate(Rewritten) is None and path.read_bytes() == first

    heavier = scaled(Projected, 2.0)
    assert "raise version=" in regenerate(heavier)
    assert path.read_bytes() == first
    assert regenerate(scaled(Projected, 2.0, version=2)) is None
    second = read("projected", tmp_path)
    assert second.version == 2 and differences(second.steps, read_steps(first))

    assert "its version was 2 and is 1" in regenerate(Projected)
    assert regenerate(Projected, force=True) is None and path.read_bytes() == first


def read_steps(content: bytes) -> dict:
    return json.loads(content)["steps"]


def test_what_is_not_compared_is_told():
    now = steps_on(Projected, PAIR)
    assert "has no golden steps" in complaint("projected", 1, None, now)
    assert "projected has version 2, its golden steps 1: regenerate" in complaint("projected", 2, Golden(1, now), now)
    assert "only run" in complaint("projected", 1, Golden(1, {}), now)
    assert "only kept" in complaint("projected", 1, Golden(1, now), {})
    assert complaint("projected", 1, Golden(1, now), now) is None


def test_numbers_survive_the_file(tmp_path):
    steps = {"a, cnn > cnn, step 1": {"loss label": 1 / 3, "loss tiny": 1.23456789012e-12, "extra gradient": 0.0}}
    write("a", Golden(3, steps), tmp_path)
    again = read("a", tmp_path)
    assert again.version == 3 and differences(steps, again.steps) == []
    assert again.steps["a, cnn > cnn, step 1"]["loss label"] == 0.333333333


@pytest.mark.parametrize(("value", "seen"), [(1 + 5e-6, False), (1 + 2e-5, True), (float("nan"), True)])
def test_the_tolerance(value, seen):
    before = {"a, cnn > cnn, step 1": {"logits": 1.0}}
    assert bool(differences(before, {"a, cnn > cnn, step 1": {"logits": value}})) == seen
