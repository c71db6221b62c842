"""The test under a recipe's corruptions that a training ends with."""

from functools import partial

import pytest

from cakdbench.data.corruptions import corrupt
from cakdbench.data.stream import EvalStream
from cakdbench.method import Batch, Method, Step
from cakdbench.train.evaluate import evaluate
from cakdbench.train.trainer import Interrupted
from cakdbench.utils.corruptions import parse_corruptions
from tests.train.training import Training, same, short_recipe

NAMES = "gaussian_noise:5", "shot_noise=30"
PLAIN = {"ema_decay": 0.5}
NOISY = PLAIN | {"evaluation.corruptions": ",".join(reversed(NAMES))}
METHODS = ("scratch", "kd")


class Shy(Method):
    """Its student fails on test images from the third pass over them on, the first under a corruption."""

    id, title, paper, url = "shy", "", "", ""

    def build(self):
        self.passes = 0
        self.student.register_forward_pre_hook(self._count)

    def _count(self, *_):
        self.passes += not self.student.training
        if self.passes == 3:
            raise ValueError("too noisy for me")

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        return Step(logits, {"label": batch.label_loss(logits)})


def numbers(training: Training) -> dict[str, list]:
    return training.trainer.corrupted


@pytest.fixture(scope="module")
def noisy() -> Training:
    return Training(METHODS, short_recipe(**NOISY)).run()


def test_every_lane_and_its_averaged_weights_are_tested_under_every_corruption(noisy):
    for lane in noisy.lanes:
        found = numbers(noisy)[lane.label]
        assert [(each.kind, each.strength, each.severity) for each in found] == [
            ("gaussian_noise", 0.38, 5), ("shot_noise", 30, None)
        ]  # fmt: skip
        for each, noise in zip(found, parse_corruptions(NAMES), strict=True):
            stream = EvalStream(noisy.dataset.test, noisy.dataset, noisy.recipe, change=partial(corrupt, noise))
            own = evaluate(lane.method.student, stream, noisy.accelerator)
            averaged = evaluate(lane.ema.module, stream, noisy.accelerator)
            assert (each.top1, each.top5, each.ema_top1) == (own.top1, own.top5, averaged.top1)
    assert len({each.top1 for found in numbers(noisy).values() for each in found}) > 1


def test_weights_history_and_the_result_are_those_without_corruptions(noisy):
    plain = Training(METHODS, short_recipe(**PLAIN)).run()
    assert numbers(plain) == {}
    for label in METHODS:
        assert same(plain.weights(label), noisy.weights(label))
        assert plain.lane(label).history == noisy.lane(label).history
        assert plain.trainer.results[label].top1 == noisy.trainer.results[label].top1


def test_the_time_it_takes_is_the_lanes_own_evaluation(noisy):
    for label, state in dict(noisy.saved).items():
        assert noisy.lane(label).evaluating.seconds > state["seconds"][1] > 0


def test_a_training_that_is_stopped_before_goes_on_with_the_test(noisy):
    """All steps are made: without corruptions nothing would be left that could be interrupted."""
    steps = noisy.lanes[0].step
    assert Training(METHODS, short_recipe(**PLAIN), stop_at=steps).run().trainer.results.keys() == set(METHODS)
    stopped = Training(METHODS, short_recipe(**NOISY), stop_at=steps)
    with pytest.raises(Interrupted, match="all lanes are saved"):
        stopped.run()
    assert numbers(stopped) == {}
    resumed = Training(METHODS, short_recipe(**NOISY))
    for lane in resumed.lanes:
        lane.load(dict(stopped.saved)[lane.label])
    assert numbers(resumed.run()) == numbers(noisy)


def test_a_lane_that_fails_under_a_corruption_fails_alone(noisy):
    training = Training(["scratch", Shy], short_recipe(**NOISY)).run()
    assert "too noisy for me" in training.failed["shy"] and [lane.label for lane in training.lanes] == ["scratch"]
    assert dict(training.saved)["shy"]["step"] == training.lanes[0].step  # behind its last checkpoint
    assert numbers(training) == {"scratch": numbers(noisy)["scratch"]}


def test_what_no_lane_is_left_for_is_not_rendered(monkeypatch):
    corrupted = []
    monkeypatch.setattr("cakdbench.train.trainer.corrupt", lambda noise, *_: corrupted.append(noise) or _[0])
    training = Training([Shy], short_recipe(**NOISY)).run()
    assert list(training.failed) == ["shy"] and set(corrupted) == {parse_corruptions(NAMES)[0]}
