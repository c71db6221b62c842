"""Measure a group's speed: its step in parts, the whole trainer, and the ceiling of the same step on resident data.

Networks have random weights, since speed does not depend on them. Where a dataset is not at hand, its images are noise
in its form.
"""

import contextlib
import gc
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cakdbench.data.datasets import ImageDataset, dataset_facts, load_dataset, register_datasets
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.data.synthetic import synthetic_dataset
from cakdbench.data.views import MicroBatch, Views
from cakdbench.engine.group import build_lane
from cakdbench.engine.options import RunOptions
from cakdbench.engine.recorder import versions
from cakdbench.engine.run_teachers import known_pair
from cakdbench.engine.speed.facts import GroupSpeed, LaneSpeed
from cakdbench.engine.speed.phases import Clock, watching
from cakdbench.engine.speed.timing import (
    Limit,
    Ticks,
    issue_seconds,
    matrix_rate,
    median_seconds,
    seconds_of,
    stream_rate,
)
from cakdbench.engine.work import count_macs, list_work
from cakdbench.grid.plan import Cell, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.method import Batch, teacher_output
from cakdbench.models.ensemble import join
from cakdbench.models.staged import Output, StagedModel
from cakdbench.store import Store
from cakdbench.train.checkpoint import save_checkpoint
from cakdbench.train.evaluate import LaneExaminer
from cakdbench.train.events import GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.peak import held_beside
from cakdbench.train.runtime import Runtime
from cakdbench.train.trainer import Interrupted, Keeper, Trainer, label_criterion
from cakdbench.utils.device import device_name, make_accelerator
from cakdbench.utils.errors import RAISED, UsageError, describe_error, file_of
from cakdbench.utils.rng import seeded

WARM_UP = 3
"""First steps of a lane, in which kernels are chosen and memory is taken."""


class SpeedBench:
    """The lanes of one group on a device, built as the engine builds them.

    Args:
        cells: that share one pass.
        synthetic: take images of noise also where the dataset is at hand.

    Attributes:
        speed: the numbers that have been measured so far.
    """

    def __init__(self, cells: Sequence[Cell], runtime: Runtime, limit: Limit, synthetic: bool = False):
        self.cells = list(cells)
        self.runtime = runtime
        self.limit = limit
        self.accelerator = runtime.accelerator
        self.device = self.accelerator.device
        first = cells[0]
        self.recipe, self.seed, self.pair = first.recipe, first.seed, first.pair
        self.dataset, data = self._dataset(synthetic)
        self.stream = SampleStream(self.dataset, self.recipe, self.seed, **runtime.rendering)
        self.criterion = label_criterion(self.recipe)
        self.speed = self._conditions(data)
        self.teacher = self._teacher() if any(cell.needs_teacher for cell in cells) else None
        self.lanes = [lane for cell in cells if (lane := self._try(cell.label, partial(self._lane, cell)))]
        self.views = self._render(0)
        self.resident = self.stream.finish(self.views, self.device)

    @property
    def step_images(self) -> int:
        """Return the images of an optimizer step on this process."""
        return self.recipe.local_batch * self.stream.accumulation

    def _dataset(self, synthetic: bool) -> tuple[ImageDataset, str]:
        name, folder = self.pair.dataset, self.runtime.options.data_dir
        if not synthetic:
            with contextlib.suppress(UsageError):  # its files are not here
                return load_dataset(name, folder, download=False), "at hand"
        return synthetic_dataset(name, dataset_facts(name, folder)), "synthetic"

    def _conditions(self, data: str) -> GroupSpeed:
        options = self.runtime.options
        return GroupSpeed(
            pair=str(self.pair),
            recipe=self.recipe.name,
            precision=self.cells[0].precision,
            image_size=self.recipe.image_size,
            local_batch=self.recipe.local_batch,
            accumulation=self.stream.accumulation,
            data=data,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            workers=self.runtime.rendering["workers"],
            compiled=options.compile,
            channels_last=options.channels_last,
            versions=versions(),
        )

    def _model(self, name: str) -> StagedModel:
        with seeded(self.seed, "speed", name):
            return StagedModel(name, self.dataset.num_classes, self.recipe.image_size, split=self.recipe.split)

    def _teacher(self) -> StagedModel:
        teacher = join(map(self._model, self.pair.teacher_models))
        return teacher.to(self.device).eval().requires_grad_(False)

    def _lane(self, cell: Cell) -> Lane:
        lane = build_lane(cell, cell.label, self._model(cell.pair.student), self.teacher, self.stream, self.runtime)
        lane.start_epoch(0)
        return lane

    def _try(self, label: str, act: Callable[[], Any]) -> Any:
        """Return what `act` gives; of a lane that raises, note why, and None."""
        try:
            return act()
        except RAISED as error:  # a method may raise anything, and must not take the others with it
            method = next(cell.method for cell in self.cells if cell.label == label)
            self.speed.failed[label] = describe_error(error, file_of(method))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def measure(self) -> GroupSpeed:
        """Return all numbers of the group; the trainer and its ceiling come first."""
        self.warm_up()
        if self.lanes:
            self.measure_ceiling()
            self.measure_trainer()
            self.measure_shared()
        self.measure_lanes()
        self.count()
        self.speed.finished = datetime.now(UTC).isoformat(timespec="seconds")
        return self.speed

    def warm_up(self) -> None:
        """Make the first steps of every lane; one that raises leaves the group."""
        for lane in list(self.lanes):
            seconds = self._try(lane.label, partial(self._first_step, lane))
            if seconds:
                self.speed.lanes.append(LaneSpeed(lane.label, seconds))
            else:
                self.lanes.remove(lane)

    def _first_step(self, lane: Lane) -> float:
        batch = self._batch([lane])
        seconds = [seconds_of(lambda: self._engine_step(lane, batch), self.device) for _ in range(WARM_UP)]
        lane.flush_metrics()
        return seconds[0]

    def _engine_step(self, lane: Lane, batch: Batch) -> None:
        """Make one optimizer step of the engine's, all its local batches the same."""
        for index in range(self.stream.accumulation):
            lane.local_step(batch, index)

    def _needs(self, lanes: Sequence[Lane]) -> frozenset[str]:
        return frozenset().union(*(lane.method.needs for lane in lanes))

    def _teach(self, lanes: Sequence[Lane]) -> Output | None:
        """Return what the lanes need of the teacher's pass on the resident images."""
        with self.accelerator.autocast():
            return teacher_output(self.teacher, self.resident.images, self._needs(lanes))

    def _batch(self, lanes: Sequence[Lane]) -> Batch:
        samples = self.resident
        return Batch(samples.images, samples.target, samples.index, 0, 0, self.criterion, self._teach(lanes))

    def bare_step(self, lanes: Sequence[Lane]) -> None:
        """Make an optimizer step on resident data without the engine: nothing is seeded, timed, counted or read."""
        share = 1 / self.stream.accumulation
        for _ in range(self.stream.accumulation):
            batch = self._batch(lanes)
            for lane in lanes:
                with self.accelerator.autocast():
                    out = lane.module(batch)
                self.accelerator.backward(sum(out.everything.values()) * share)
        for lane in lanes:
            lane.move_weights()

    def measure_ceiling(self) -> None:
        """Time the bare step of all lanes."""
        self.bare_step(self.lanes)
        if self.device.type == "cuda":
            self.speed.issue = self._issue() / self.stream.accumulation
        seconds = median_seconds(lambda: self.bare_step(self.lanes), self.device, self.limit)
        self.speed.ceiling = self.step_images / seconds

    def _issue(self) -> float:
        """Return the seconds in which the host issues a step, lane by lane, since a full queue would make it wait."""
        lanes = sum(issue_seconds(partial(self.bare_step, [lane]), self.device) for lane in self.lanes)
        taught = sum(bool(self._needs([lane]) - {"model"}) for lane in self.lanes)
        teacher = issue_seconds(lambda: self._teach(self.lanes), self.device) * self.stream.accumulation
        return lanes - max(taught - 1, 0) * teacher

    def measure_trainer(self) -> None:
        """Time the real trainer with all lanes on the real stream."""
        ticks, keeper = Ticks(self.limit), Keeper()
        runtime = replace(self.runtime, events=ticks, stop=ticks.enough)
        trainer = self._trainer(runtime, keeper)
        trainer.flush_every = min(trainer.flush_every, max(1, self.limit.steps // 8))
        for lane in self.lanes:
            lane.step = 0
        _reset_peak(self.device)
        with contextlib.suppress(Interrupted):
            trainer.run()
        self.speed.peak_memory_mb = _peak(self.device)
        self.speed.failed |= keeper.failed
        if seconds := ticks.seconds_per_step():
            self.speed.trainer = self.step_images / seconds

    def _trainer(self, runtime: Runtime, keeper: Keeper) -> Trainer:
        steps, views = self.stream.steps_per_epoch, [LaneView(lane.label) for lane in self.lanes]
        view = GroupView(str(self.pair), self.recipe.name, self.seed, self.recipe.epochs, steps, views)
        evaluation = EvalStream(self.dataset.test, self.dataset, self.recipe, **runtime.rendering)
        return Trainer(list(self.lanes), self.teacher, self.stream, evaluation, runtime, keeper, view)

    def measure_shared(self) -> None:
        """Time what all lanes share: rendering, transfer and the teacher's pass."""
        speed, images = self.speed, self.recipe.local_batch
        cpu = torch.device("cpu")
        views = iter(range(1, 10**9))
        one = median_seconds(lambda: self._render(next(views)), cpu, replace(self.limit, steps=8, least=2))
        speed.rendering_core = one_core = images / one
        speed.rendering = stream_rate(self.stream, speed.workers, self.limit) if speed.workers else one_core
        sent = self.views.pin_memory() if self.device.type == "cuda" else self.views
        speed.transfer = median_seconds(lambda: self.stream.finish(sent, self.device), self.device, self.limit)
        if self._needs(self.lanes) - {"model"}:
            speed.teacher = median_seconds(lambda: self._teach(self.lanes), self.device, self.limit)
        speed.matrix_rate = matrix_rate(self.device, speed.precision)

    def _render(self, number: int) -> Views:
        return self.stream.batches[MicroBatch(0, number % self.stream.steps_per_epoch, 0)]

    def measure_lanes(self) -> None:
        """Time every lane by itself."""
        for lane, speed in zip(self.lanes, self.speed.lanes):
            self._try(lane.label, partial(self._measure_lane, lane, speed))

    def _measure_lane(self, lane: Lane, speed: LaneSpeed) -> None:
        _reset_peak(self.device)
        speed.alone = self.step_images / median_seconds(lambda: self.bare_step([lane]), self.device, self.limit)
        if peak := _peak(self.device):
            speed.peak_memory_mb = peak - held_beside(self.lanes, lane) / 2**20
        speed.phases = self._phases(lane)
        speed.evaluation = self._evaluation(lane)
        with tempfile.TemporaryDirectory() as folder:
            write = partial(save_checkpoint, Path(folder), lane.step, run=lane.label)
            speed.checkpoint = seconds_of(lambda: write(state=lane.state()), self.device)

    def _phases(self, lane: Lane) -> dict[str, float]:
        batch, steps = self._batch([lane]), []
        for _ in self.limit.series():
            clock = Clock(self.device)
            with watching(clock, lane, self.runtime.options.compile):
                self._engine_step(lane, batch)
            steps.append(clock.seconds)
        lane.flush_metrics()
        names = dict.fromkeys(name for step in steps for name in step)
        medians = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
        return {name: seconds / self.stream.accumulation for name, seconds in medians.items()}

    def _evaluation(self, lane: Lane) -> float:
        images = self.resident.images
        labels, index = torch.zeros(len(images), dtype=torch.long), torch.arange(len(images))
        examiner = LaneExaminer(lane)
        return len(images) / median_seconds(lambda: examiner.see(images, labels, index), self.device, self.limit)

    def count(self) -> None:
        """Count the multiply-adds of every lane."""
        works = {work.cell.label: work for work in list_work(self.cells, self.runtime.options.data_dir)}
        for lane in self.speed.lanes:
            macs = self._try(lane.method, partial(count_macs, works[lane.method]))
            if macs:
                lane.macs = macs[0]
                self.speed.teacher_macs = max(self.speed.teacher_macs, macs[1])

    def close(self) -> None:
        """End the workers and give the memory back."""
        del self.lanes, self.stream, self.teacher, self.resident
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def measure_speeds(
    options: RunOptions, limit: Limit, synthetic: bool = False, say: Callable[[str], None] = lambda text: None
) -> Iterator[GroupSpeed]:
    """Yield the speed of every group of methods x pairs that the options name; the baselines do not join by themselves.

    A run in the place of a teacher is as fast as its model, and is not trained.

    Args:
        synthetic: take images of noise also where a dataset is at hand.
        say: told of methods that refuse a pair.

    Raises:
        UsageError: a name or a number in the options is wrong.
    """
    for path in options.dataset_files:
        register_datasets(path)
    accelerator = make_accelerator(options.precision, options.cpu, options.threads)
    named, store = resolve_pairs(options.pairs, options.recipe), Store(options.store)
    pairs = (known_pair(store, spec.pair).without_runs for spec in named)
    specs = dict.fromkeys(replace(spec, pair=pair, init=None) for spec, pair in zip(named, pairs))
    folder = options.computing.data_dir
    plan = make_plan(options.methods, specs, options.seeds, options.settings, options.precision, folder, always=())
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((*cell.shared, cell.pair), []).append(cell)
    for refusal in plan.refusals:
        say(f"refused: {refusal.label} on {refusal.pair}: {refusal.reason}")
    for cells in groups.values():
        bench = SpeedBench(cells, Runtime(accelerator, options.computing), limit, synthetic)
        try:
            yield bench.measure()
        finally:
            bench.close()
