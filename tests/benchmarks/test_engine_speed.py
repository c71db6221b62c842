"""KD by the engine over KD by a loop written by hand, on the same rendered batches, with the same losses.

Run `pytest tests/benchmarks/test_engine_speed.py -n 0 -s`. Counted is the processor's time of one thread, and the two
take turns, a few steps each, so that what else the machine does falls on both; the ratio is the median over the turns.
"""

import statistics
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cakdbench.data.stream import SampleStream
from cakdbench.train.events import GroupView, NoEvents
from cakdbench.train.lane import Lane, make_optimizer, make_schedule
from tests.train.training import Training, short_recipe, small_dataset

STEPS = 12
PAIRS = {  # teacher, student, image size, batch, turns
    "resnet_m>vit_xs, 64 px, batch 50": ("resnet_m", "vit_xs", 64, 50, 9),
    "swin_t>resnet18, 224 px, batch 8": ("swin_t", "resnet18", 224, 8, 3),
}


class Rendered(SampleStream):
    """A stream whose samples are ready before anybody asks for them."""

    def __init__(self, *args):
        super().__init__(*args)
        cpu = torch.device("cpu")
        self._ready = [[self.finish(views, cpu) for views in step] for step in super().epoch(0)]
        self.finish = lambda samples, device: samples

    def epoch(self, epoch, start_step=0):
        return iter(self._ready[start_step:])


class Steps(NoEvents):
    """Notes how long steps take, without the first."""

    def __init__(self):
        self.times = []
        self.losses = []

    def tick(self, view: GroupView) -> None:
        self.times.append(time.process_time())

    def median(self) -> float:
        return statistics.median(later - earlier for earlier, later in zip(self.times, self.times[1:STEPS]))


def loop(lane: Lane, teacher: nn.Module, stream: SampleStream, steps: Steps) -> None:
    """Train as one would write it down without an engine."""
    student, recipe = lane.method.student, lane.recipe
    optimizer = make_optimizer(lane.method, recipe)
    schedule = make_schedule(optimizer, recipe, stream.steps_per_epoch)
    schedule.step(0)
    student.train()
    for step, [samples] in enumerate(stream.epoch(0)):
        schedule.step_update(step)
        with torch.no_grad():
            taught = F.log_softmax(teacher(samples.images).logits, 1)
        logits = student(samples.images).logits
        kd = F.kl_div(F.log_softmax(logits, 1), taught, reduction="batchmean", log_target=True)
        loss = F.cross_entropy(logits, samples.target, label_smoothing=recipe.label_smoothing) + kd
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_grad)
        optimizer.step()
        steps.losses.append(loss.item())
        steps.tick(None)


class Turn:
    """The engine and the loop, one after the other, on the same rendered batches."""

    def __init__(self, pair: str):
        self.teacher, self.student, size, batch, _ = PAIRS[pair]
        numbers = {"schedule.warmup_epochs": 0, "image_size": size, "global_batch": batch, "local_batch": batch}
        self.recipe = short_recipe(epochs=1, **numbers)
        self.dataset = small_dataset(STEPS * batch, 10)
        self.stream = Rendered(self.dataset, self.recipe, 0)

    def take(self) -> tuple[float, float]:
        """Return engine over loop, and the seconds of a step of the loop."""
        names = {"teacher": self.teacher, "student": self.student}
        engine, bare = (Training(["kd"], self.recipe, **names) for _ in range(2))
        engine.dataset, engine.stream = self.dataset, self.stream
        engine.lanes[0].schedule = make_schedule(engine.lanes[0].optimizer, self.recipe, STEPS)
        by_engine, by_hand = Steps(), Steps()
        engine.run(by_engine)
        loop(bare.lanes[0], bare.teacher, self.stream, by_hand)
        [line] = engine.lanes[0].history
        assert sum(line.losses.values()) == pytest.approx(statistics.mean(by_hand.losses), rel=1e-3)
        return by_engine.median() / by_hand.median(), by_hand.median()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_engine_over_a_bare_loop(benchmark, pair):
    turn, turns = Turn(pair), []
    benchmark.pedantic(lambda: turns.append(turn.take()), rounds=PAIRS[pair][-1], warmup_rounds=1)
    ratios, seconds = zip(*turns[1:])
    benchmark.extra_info["engine over bare loop"] = round(statistics.median(ratios), 4)
    print(
        f"\n{pair}: engine over bare loop {statistics.median(ratios):.4f} "
        f"(turns {', '.join(f'{ratio:.3f}' for ratio in ratios)}); {1000 * statistics.median(seconds):.1f} ms a step"
    )
