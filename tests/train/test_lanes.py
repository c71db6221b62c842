"""Lanes: alone or together, interrupted or not, the same weights; a failing lane fails alone."""

import pytest
import torch
from accelerate.state import AcceleratorState
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from cakdbench.method import Batch, Method, Step
from cakdbench.registry import method_ids
from cakdbench.train.trainer import Interrupted, label_criterion
from cakdbench.utils.device import make_accelerator
from tests.train.training import Training, same, short_recipe

METHODS = ("scratch", "kd", "ofa", "fbt")


class Noisy(Method):
    """Draws randomness of its own in every step, as dropout or a memory bank's negatives would."""

    id, title, paper, url = "noisy", "", "", ""

    def build(self):
        self.extra = nn.Linear(10, 10)

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        noise = torch.rand_like(logits) + torch.randn(1)
        loss = (self.extra(logits) * noise - batch.teacher.logits).square().mean()
        return Step(logits, {"label": batch.label_loss(logits), "noise": loss})


class Diverging(Method):
    """Its loss is NaN from step 3 on."""

    id, title, paper, url = "diverging", "", "", ""

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        step = batch.epoch * 4 + batch.step
        return Step(logits, {"label": batch.label_loss(logits) * (float("nan") if step >= 3 else 1.0)})


class Raising(Diverging):
    """Raises in the second step."""

    id = "raising"

    def distill_step(self, batch: Batch) -> Step:
        if batch.step == 1:
            raise RuntimeError("the shapes do not fit")
        return super().distill_step(batch)


@pytest.fixture(scope="module")
def together() -> Training:
    return Training([*METHODS, Noisy]).run()


@pytest.mark.parametrize(("teacher", "student"), [("resnet_m", "vit_xs"), ("swin_m", "resnet_s")])
def test_how_often_is_saved_changes_no_weight(teacher, student):
    """Not by a rounding: what a checkpoint gathers has the layout that it had in memory."""
    methods = [id for id in method_ids() if id != "pcagl" or student == "resnet_s"]
    often, never = (
        Training(methods, short_recipe(), teacher=teacher, student=student, checkpoint_seconds=seconds).run()
        for seconds in (0, 1e9)
    )
    assert not often.failed and len(often.saved) > len(never.saved)
    weights = [[group.lane(id).method.student.state_dict() for id in methods] for group in (often, never)]
    assert [id for id, one, other in zip(methods, *weights) if not same(one, other)] == []


@pytest.mark.parametrize("method", [*METHODS, Noisy])
def test_a_lane_ends_in_the_same_weights_alone_and_beside_others(together, method):
    label = method if isinstance(method, str) else method.id
    alone = Training([method]).run()
    assert same(alone.weights(label), together.weights(label))
    assert alone.lane(label).history == together.lane(label).history


def test_methods_end_in_different_weights(together):
    key = next(iter(together.weights("scratch")))
    assert not torch.equal(together.weights("scratch")[key], together.weights("kd")[key])


def test_training_leaves_the_teacher_and_the_global_randomness_alone():
    training = Training(["kd", "fbt"])
    before = {name: value.clone() for name, value in training.teacher.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    training.run()
    assert torch.rand(1) == wanted
    assert same(before, training.teacher.state_dict())
    assert not training.teacher.training
    assert all(parameter.grad is None for parameter in training.teacher.parameters())


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_stopped_lane_goes_on_to_the_same_weights_and_history(together, step):
    stopped = Training([*METHODS, Noisy], stop_at=step)
    with pytest.raises(Interrupted):
        stopped.run()
    states = dict(stopped.saved)
    assert all(state["step"] == step for state in states.values())
    resumed = Training([*METHODS, Noisy])
    for lane in resumed.lanes:
        lane.load(states[lane.label])
    resumed.run()
    for lane in resumed.lanes:
        assert same(lane.method.state_dict(), together.weights(lane.label))
        assert lane.history == together.lane(lane.label).history


def test_a_lane_is_saved_after_every_epoch_and_as_often_as_asked():
    assert [state["step"] for _, state in Training(["scratch"]).run().saved] == [4, 8]
    often = Training(["scratch"], checkpoint_seconds=0).run()
    assert [state["step"] for _, state in often.saved] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("bad", "reason"), [(Diverging, "nan at step 3"), (Raising, "shapes do not fit")])
def test_a_lane_that_fails_is_closed_with_its_reason_and_the_others_go_on(together, bad, reason):
    training = Training(["scratch", bad, "kd"]).run()
    assert list(training.failed) == [bad.id] and reason in training.failed[bad.id]
    assert [lane.label for lane in training.lanes] == ["scratch", "kd"]
    assert same(training.weights("kd"), together.weights("kd"))
    assert {view.label: view.state for view in training.view.lanes} == {
        "scratch": "done", bad.id: "failed", "kd": "done"
    }  # fmt: skip


def test_no_checkpoint_holds_a_diverged_state():
    training = Training([Diverging], checkpoint_seconds=0).run()
    assert max(state["step"] for _, state in training.saved) == 3


def test_history_has_a_line_per_epoch_with_mean_losses_and_the_schedule(together):
    history = together.lane("kd").history
    assert [line.epoch for line in history] == [0, 1]
    assert set(history[0].losses) == {"label", "kd"}
    assert history[1].losses["label"] < history[0].losses["label"]
    assert 0 <= history[0].top1 <= 100 and history[0].ema_top1 is None


def test_accuracy_is_measured_as_often_as_the_recipe_says_and_always_at_the_end():
    training = Training(["scratch"], short_recipe(epochs=3, **{"evaluation.every": 2})).run()
    assert [line.top1 is not None for line in training.lane("scratch").history] == [False, True, True]


def test_splitting_a_step_into_local_batches_gives_the_mean_gradient_of_them():
    whole = Training(["scratch"], short_recipe(epochs=1), student="vit_xs").run()
    split = Training(["scratch"], short_recipe(epochs=1, local_batch=4), student="vit_xs").run()
    assert split.stream.accumulation == 4
    for name, value in whole.weights("scratch").items():
        assert torch.allclose(value, split.weights("scratch")[name], atol=2e-4), name


def test_ema_is_of_the_student_alone_and_survives_a_resume():
    recipe = short_recipe(ema_decay=0.5)
    straight = Training(["ofa"], recipe).run()
    stopped = Training(["ofa"], recipe, stop_at=5)
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = Training(["ofa"], recipe)
    resumed.lanes[0].load(dict(stopped.saved)["ofa"])
    resumed.run()
    ema = straight.lane("ofa").ema.module
    assert ema.state_dict().keys() == straight.lane("ofa").method.student.state_dict().keys()
    assert same(ema.state_dict(), resumed.lane("ofa").ema.module.state_dict())
    assert straight.lane("ofa").history[-1].ema_top1 is not None


def test_gradients_are_clipped_to_the_recipes_norm():
    moved = {}
    for clip in (1e-6, "none"):
        plain = {"optimizer.name": "momentum", "optimizer.weight_decay": 0}
        training = Training(["scratch"], short_recipe(epochs=1, clip_grad=clip, **plain))
        before = {name: value.clone() for name, value in training.weights("scratch").items()}
        training.run()
        moved[clip] = sum((training.weights("scratch")[name] - before[name]).norm() for name in before)
    assert moved[1e-6] < 1e-3 * moved["none"]


def test_extra_modules_are_trained_with_the_student():
    training = Training([Noisy])
    before = training.weights("noisy")["extra.weight"].clone()
    assert not torch.equal(training.run().weights("noisy")["extra.weight"], before)


def test_student_and_order_do_not_depend_on_the_method():
    students = [Training([method]).lanes[0].method.student.state_dict() for method in METHODS]
    assert all(same(students[0], student) for student in students)


@pytest.mark.parametrize(
    ("smoothing", "soft", "criterion"),
    [
        (0.0, False, nn.CrossEntropyLoss()),
        (0.1, False, LabelSmoothingCrossEntropy(0.1)),
        (0.1, True, SoftTargetCrossEntropy()),
    ],
)
def test_the_label_loss_is_timms_to_the_bit(smoothing, soft, criterion):
    ours = label_criterion(short_recipe(label_smoothing=smoothing))
    for seed in range(20):
        torch.manual_seed(seed)
        logits = torch.randn(6, 10)
        target = torch.softmax(torch.randn(6, 10), 1) if soft else torch.randint(10, (6,))
        assert torch.equal(ours(logits, target), criterion(logits, target))


@pytest.fixture
def bf16():
    """An accelerator for bf16; Accelerate keeps one precision per process until it is reset."""
    AcceleratorState._reset_state()
    yield make_accelerator("bf16", cpu=True)
    AcceleratorState._reset_state()


def test_bf16_trains_with_losses_and_weights_in_fp32(bf16):
    training = Training(["kd", "fbt"], accelerator=bf16)
    seen = []
    training.lane("kd").method.register_forward_hook(lambda module, args, step: seen.append(step))
    training.run()
    assert not training.failed
    assert {loss.dtype for step in seen for loss in step.losses.values()} == {torch.float32}
    assert all(p.dtype == torch.float32 for lane in training.lanes for p in lane.method.parameters())
