"""Measure a group's speed: its step in parts, the whole trainer, and the ceiling of the same step on resident data.

Networks have random weights, since speed does not depend on them. Where a dataset is not at hand, its images are noise
in its form.
"""

import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
import torchvision

import cakdbench
from cakdbench.build import build_method
from cakdbench.data.datasets import ImageDataset, dataset_facts, load_dataset
from cakdbench.data.stream import EvalStream, MicroBatch, Samples, SampleStream
from cakdbench.data.synthetic import synthetic_dataset
from cakdbench.engine.phases import Clock, wait, watching
from cakdbench.engine.work import count_macs, list_work
from cakdbench.grid.plan import Cell
from cakdbench.method import Batch
from cakdbench.models.staged import StagedModel
from cakdbench.train.checkpoint import save_checkpoint
from cakdbench.train.events import GroupView, LaneView, NoEvents
from cakdbench.train.lane import Lane, parameters_of
from cakdbench.train.runtime import Runtime
from cakdbench.train.trainer import Interrupted, Keeper, LaneExaminer, Trainer
from cakdbench.utils.device import device_name
from cakdbench.utils.errors import UsageError, describe_error, file_of
from cakdbench.utils.rng import seeded

WARM_UP = 3
MATRIX = {"cuda": 8192, "cpu": 1024, "mps": 4096}
"""Rows and columns of the matrices whose product measures a device's rate."""


@dataclass(frozen=True)
class Limit:
    """Steps of each series, less where they take longer than so many seconds, but never fewer than `least`."""

    steps: int = 40
    seconds: float = 20.0
    least: int = 3


@dataclass
class LaneSpeed:
    """One lane's numbers; seconds are of one local batch.

    Attributes:
        first_step: seconds of the first step, compilation and the choice of kernels included.
        phases: seconds by part, each bracketed by waits for the device; medians.
        alone: images/s of the lane alone with its teacher on resident data.
        macs: multiply-adds per image of student and method, forward and backward; None if they cannot be counted.
        evaluation: images/s of its student on resident data. checkpoint: seconds.
        peak_memory_mb: of its step alone, teacher and all lanes' weights included.
    """

    method: str
    first_step: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    alone: float = 0.0
    macs: float | None = None
    evaluation: float = 0.0
    checkpoint: float = 0.0
    peak_memory_mb: float | None = None


@dataclass
class GroupSpeed:
    """A group's numbers, all lanes together; images/s count an image once, however many lanes see it.

    Attributes:
        data: "at hand", or "synthetic".
        rendering: images/s of the rendering processes alone; rendering_core: of one core.
        transfer, teacher: seconds of one local batch.
        ceiling: images/s of the bare step of all lanes on resident data.
        trainer: images/s of the real trainer: rendered, moved, taught, trained, metrics read.
        issue: seconds in which the host issues the bare step's kernels to a GPU.
        matrix_rate: multiply-adds/s of a large product in the precision. teacher_macs: per image.
        failed: lanes that raise, with their reasons.
    """

    pair: str
    recipe: str
    precision: str
    image_size: int
    local_batch: int
    accumulation: int
    data: str
    device: str
    threads: int
    workers: int
    compiled: bool
    channels_last: bool
    versions: dict[str, str]
    finished: str = ""
    rendering: float = 0.0
    rendering_core: float = 0.0
    transfer: float = 0.0
    teacher: float = 0.0
    teacher_macs: float = 0.0
    ceiling: float = 0.0
    trainer: float = 0.0
    issue: float = 0.0
    matrix_rate: float = 0.0
    peak_memory_mb: float | None = None
    lanes: list[LaneSpeed] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Return the trainer's speed over the ceiling."""
        return self.trainer / self.ceiling if self.ceiling else 0.0

    @property
    def saved(self) -> float:
        """Return the time of all lanes one after the other over that of all together, on resident data."""
        return self.ceiling * sum(1 / lane.alone for lane in self.lanes if lane.alone)

    @property
    def achieved(self) -> float | None:
        """Return the part of the device's matrix rate that the trainer reaches."""
        macs = [lane.macs for lane in self.lanes]
        if not self.matrix_rate or None in macs:
            return None
        return self.trainer * (sum(filter(None, macs)) + self.teacher_macs) / self.matrix_rate

    @property
    def parts(self) -> dict[str, float]:
        """Return seconds of one local batch of all lanes by part."""
        images = self.local_batch
        parts = {"rendering": images / self.rendering if self.rendering else 0.0, "transfer": self.transfer}
        parts["teacher"] = self.teacher
        for lane in self.lanes:
            for name, seconds in lane.phases.items():
                parts[name] = parts.get(name, 0.0) + seconds
        return parts

    @property
    def binds(self) -> str:
        """Return what the step waits for most: rendering, the host that issues kernels, or a part of the step."""
        if self.rendering and self.ceiling and self.rendering < self.ceiling:
            return "rendering"
        if self.ceiling and self.issue * self.ceiling > 0.95 * self.local_batch:
            return "the host, which issues kernels"
        inner = {name: seconds for name, seconds in self.parts.items() if name != "rendering"}
        return max(inner, key=lambda name: inner[name]) if inner else ""

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values, the derived ones too."""
        derived = {name: getattr(self, name) for name in ("ratio", "saved", "achieved", "parts", "binds")}
        return asdict(self) | derived


class Ticks(NoEvents):
    """Notes when steps of a trainer are done."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.perf_counter):
        self.limit = limit
        self.seen: list[tuple[int, float]] = []
        self._clock = clock

    def tick(self, view: GroupView) -> None:
        self.seen.append((view.step, self._clock()))

    def enough(self) -> bool:
        """Return True once the series is long enough: what `Runtime.stop` asks for."""
        if len(self.seen) <= self.limit.least + 1:
            return False
        (_, start), (step, now) = self.seen[0], self.seen[-1]
        return step >= self.limit.steps or now - start > self.limit.seconds

    def seconds_per_step(self) -> float:
        """Return the median over the intervals between ticks, the first left out."""
        pairs = list(zip(self.seen[1:], self.seen[2:])) or list(zip(self.seen, self.seen[1:]))
        return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])


class SpeedBench:
    """The lanes of one group on a device, built as the engine builds them.

    Args:
        cells: that share one pass.
        synthetic: take images of noise also where the dataset is at hand.
    """

    def __init__(self, cells: Sequence[Cell], runtime: Runtime, limit: Limit = Limit(), synthetic: bool = False):
        self.cells = list(cells)
        self.runtime = runtime
        self.limit = limit
        self.accelerator = runtime.accelerator
        self.device = self.accelerator.device
        first = cells[0]
        self.recipe, self.seed, self.pair = first.recipe, first.seed, first.pair
        self.dataset, self.data = self._dataset(synthetic)
        rendering = runtime.rendering
        self.stream = SampleStream(self.dataset, self.recipe, self.seed, **rendering)
        self.teacher = self._teacher() if any(cell.needs_teacher for cell in cells) else None
        self.speed = self._conditions(rendering["workers"])
        self.lanes = [lane for cell in cells if (lane := self._try(cell.label, lambda c=cell: self._lane(c)))]
        self._solo: dict[str, Trainer] = {}
        self.samples = self.stream.batches[MicroBatch(0, 0, 0)]

    def _dataset(self, synthetic: bool) -> tuple[ImageDataset, str]:
        name, folder = self.pair.dataset, self.runtime.options.data_dir
        if not synthetic:
            try:
                return load_dataset(name, folder, download=False), "at hand"
            except UsageError:  # its files are not here
                pass
        return synthetic_dataset(name, dataset_facts(name, folder)), "synthetic"

    def _model(self, name: str) -> StagedModel:
        with seeded(self.seed, "speed", name):
            model = StagedModel(name, self.dataset.num_classes, self.recipe.image_size, split=self.recipe.split)
        return model.to(self.device)

    def _teacher(self) -> StagedModel:
        return self._model(self.pair.teacher_model).eval().requires_grad_(False)

    def _lane(self, cell: Cell) -> Lane:
        labels = torch.from_numpy(self.dataset.train.labels)
        method = build_method(
            cell.method, self._model(cell.pair.student), self.teacher, cell.config, labels=labels, seed=self.seed
        )
        if self.runtime.options.channels_last:
            method = method.to(memory_format=torch.channels_last)
        lane = Lane(
            method,
            self.recipe,
            self.seed,
            self.accelerator,
            steps_per_epoch=self.stream.steps_per_epoch,
            accumulation=self.stream.accumulation,
            label=cell.label,
            compile=self.runtime.options.compile,
        )
        lane.start_epoch(0)
        return lane

    def _trainer(self, lanes: list[Lane], runtime: Runtime, keeper: Keeper | None = None) -> Trainer:
        steps, views = self.stream.steps_per_epoch, [LaneView(lane.label) for lane in lanes]
        view = GroupView(str(self.pair), self.recipe.name, self.seed, self.recipe.epochs, steps, views)
        evaluation = EvalStream(self.dataset.test, self.dataset, self.recipe, **runtime.rendering)
        return Trainer(list(lanes), self.teacher, self.stream, evaluation, runtime, keeper or Keeper(), view)

    def _conditions(self, workers: int) -> GroupSpeed:
        options, modules = self.runtime.options, (cakdbench, torch, torchvision, timm, accelerate)
        return GroupSpeed(
            pair=str(self.pair),
            recipe=self.recipe.name,
            precision=self.cells[0].precision,
            image_size=self.recipe.image_size,
            local_batch=self.recipe.local_batch,
            accumulation=self.stream.accumulation,
            data=self.data,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            workers=workers,
            compiled=options.compile,
            channels_last=options.channels_last,
            versions={"python": platform.python_version()} | {m.__name__: m.__version__ for m in modules},
        )

    def _try(self, label: str, act: Callable[[], Any]) -> Any:
        """Return what `act` gives; of a lane that raises, note why, and None."""
        try:
            return act()
        except Exception as error:  # a method may raise anything, and must not take the others with it
            kind = next((cell.method for cell in self.cells if cell.label == label), None)
            self.speed.failed[label] = describe_error(error, file_of(kind)) if kind else str(error)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def measure(self) -> GroupSpeed:
        """Return all numbers of the group."""
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
        resident = self._resident()
        self._solo = {lane.label: self._trainer([lane], self.runtime) for lane in self.lanes}
        for lane in list(self.lanes):
            seconds = self._try(lane.label, lambda lane=lane: self._first_step(lane, resident))
            if seconds:
                self.speed.lanes.append(LaneSpeed(lane.label, seconds))
            else:
                self.lanes.remove(lane)
        self.trainer = self._trainer(self.lanes, self.runtime)

    def _first_step(self, lane: Lane, resident: Samples) -> float:
        batch = self._solo[lane.label]._batch(resident)
        seconds = [self._seconds(lambda: self._local_batches(lane, batch)) for _ in range(WARM_UP)]
        lane.flush_metrics()
        return seconds[0]

    def measure_lanes(self) -> None:
        """Time every lane by itself."""
        resident = self._resident()
        for lane, speed in zip(self.lanes, self.speed.lanes):
            self._try(lane.label, lambda lane=lane, speed=speed: self._measure_lane(lane, speed, resident))

    def _measure_lane(self, lane: Lane, speed: LaneSpeed, resident: Samples) -> None:
        trainer = self._solo[lane.label]
        _reset_peak(self.device)
        images = len(resident.index) * self.stream.accumulation
        speed.alone = self._rate(lambda: self._bare_step([lane], trainer, resident), images)
        speed.peak_memory_mb = _peak(self.device)
        speed.phases = self._phases(lane, trainer._batch(resident))
        speed.evaluation = self._evaluation(lane, resident)
        with tempfile.TemporaryDirectory() as folder:
            speed.checkpoint = self._seconds(lambda: save_checkpoint(Path(folder), lane.step, lane.state()))

    def _phases(self, lane: Lane, batch: Batch) -> dict[str, float]:
        steps = []
        for _ in self._series():
            clock = Clock(self.device)
            with watching(clock, lane, self.runtime.options.compile):
                self._local_batches(lane, batch)
            steps.append(clock.seconds)
        lane.flush_metrics()
        names = dict.fromkeys(name for step in steps for name in step)
        share = 1 / self.stream.accumulation
        return {name: share * statistics.median(step.get(name, 0.0) for step in steps) for name in names}

    def _local_batches(self, lane: Lane, batch: Batch) -> None:
        """Make one optimizer step of the engine's, all its local batches the same."""
        for index in range(self.stream.accumulation):
            lane.local_step(batch, index)

    def _evaluation(self, lane: Lane, resident: Samples) -> float:
        labels, index = torch.zeros(len(resident.index), dtype=torch.long), torch.arange(len(resident.index))
        examiner = LaneExaminer(lane)
        examiner.see(resident.images, labels, index)
        return self._rate(lambda: examiner.see(resident.images, labels, index), len(index))

    def measure_shared(self) -> None:
        """Time what all lanes share: rendering, transfer and the teacher's pass."""
        speed, images = self.speed, self.recipe.local_batch
        names = (MicroBatch(0, step, 0) for step in range(1, 1 + self.stream.steps_per_epoch))
        started = time.perf_counter()
        count = next(n for n, name in enumerate(names, 1) if self._rendered(name) and time.perf_counter() - started > 1)
        speed.rendering_core = count * images / (time.perf_counter() - started)
        speed.rendering = self._workers_rate()
        pinned = self.samples.pin_memory() if self.device.type == "cuda" else self.samples
        speed.transfer = images / self._rate(lambda: self._moved(pinned), images)
        if self.teacher is not None and self.trainer.needs - {"model"}:
            resident = self._resident()
            speed.teacher = images / self._rate(lambda: self.trainer._teach(resident.images), images)
        speed.matrix_rate = matrix_rate(self.device, speed.precision)

    def _rendered(self, name: MicroBatch) -> Samples:
        return self.stream.batches[name]

    def _workers_rate(self) -> float:
        """Return images/s of the stream alone, after the workers have started."""
        if not self.speed.workers:
            return self.speed.rendering_core
        limit = min(5.0, self.limit.seconds)
        ahead = 2 * self.speed.workers  # batches that were rendered while nobody waited
        times = []
        for _ in self.stream.epoch(0):
            times.append(time.perf_counter())
            if len(times) > ahead + 2 * self.speed.workers and times[-1] - times[0] > limit:
                break
        kept = times[ahead:] if len(times) > ahead + 1 else times
        steps = max(len(kept) - 1, 1)
        return steps * self.stream.accumulation * self.recipe.local_batch / max(kept[-1] - kept[0], 1e-9)

    def _moved(self, samples: Samples) -> Samples:
        parts = ("images", "target", "index")
        return replace(samples, **{name: getattr(samples, name).to(self.device, non_blocking=True) for name in parts})

    def _resident(self) -> Samples:
        return self._moved(self.samples)

    def measure_ceiling(self) -> None:
        """Time the bare step of all lanes on a batch that lies on the device."""
        resident, images = self._resident(), self.recipe.local_batch

        def step() -> None:
            self._bare_step(self.lanes, self.trainer, resident)

        step()
        if self.device.type == "cuda":
            self.speed.issue = self._issue(resident) / self.stream.accumulation
        self.speed.ceiling = self._rate(step, images * self.stream.accumulation)

    def _issue(self, resident: Samples) -> float:
        """Return the seconds in which the host issues a step, lane by lane, since a full queue would make it wait."""
        taught = self._issued(lambda: self.trainer._teach(resident.images)) if self.teacher else 0.0
        seconds = [
            self._issued(lambda lane=lane: self._bare_step([lane], self._solo[lane.label], resident))
            for lane in self.lanes
        ]
        teachers = sum(bool(self._solo[lane.label].needs - {"model"}) for lane in self.lanes)
        return sum(seconds) - max(teachers - 1, 0) * taught * self.stream.accumulation

    def _issued(self, act: Callable[[], Any]) -> float:
        wait(self.device)
        started = time.perf_counter()
        act()
        seconds = time.perf_counter() - started
        wait(self.device)
        return seconds

    def _bare_step(self, lanes: list[Lane], trainer: Trainer, resident: Samples) -> None:
        """Make an optimizer step without the engine: nothing is seeded, timed, counted or read."""
        for index in range(self.stream.accumulation):
            teacher = trainer._teach(resident.images) if trainer.needs - {"model"} else None
            batch = Batch(resident.images, resident.target, resident.index, 0, 0, trainer.criterion, teacher, index)
            for lane in lanes:
                with self.accelerator.autocast():
                    out = lane.module(batch)
                self.accelerator.backward(sum(out.everything.values()) / self.stream.accumulation)
        for lane in lanes:
            _move(lane)

    def measure_trainer(self) -> None:
        """Time the real trainer with all lanes on the real stream."""
        ticks = Ticks(self.limit)
        runtime = replace(self.runtime, events=ticks, stop=ticks.enough)
        trainer = self._trainer(self.lanes, runtime)
        trainer.flush_every = min(trainer.flush_every, max(1, self.limit.steps // 8))
        for lane in self.lanes:
            lane.step = 0
        _reset_peak(self.device)
        try:
            trainer.run()
        except Interrupted:
            pass
        self.speed.peak_memory_mb = _peak(self.device)
        self.speed.failed |= trainer.keeper.failed
        if len(ticks.seen) > 1:
            self.speed.trainer = self.recipe.global_batch / ticks.seconds_per_step()

    def count(self) -> None:
        """Count the multiply-adds of every lane."""
        works = {work.cell.label: work for work in list_work(self.cells, self.runtime.options.data_dir)}
        for lane in self.speed.lanes:
            macs = self._try(lane.method, lambda lane=lane: count_macs(works[lane.method]))
            if macs:
                lane.macs = macs[0]
                self.speed.teacher_macs = max(self.speed.teacher_macs, macs[1])

    def _series(self) -> Iterator[None]:
        """Yield as often as the limit says."""
        started = time.perf_counter()
        for number in range(self.limit.steps):
            if number >= self.limit.least and time.perf_counter() - started > self.limit.seconds / 4:
                return
            yield

    def _seconds(self, act: Callable[[], Any]) -> float:
        wait(self.device)
        started = time.perf_counter()
        act()
        wait(self.device)
        return time.perf_counter() - started

    def _rate(self, act: Callable[[], Any], images: int) -> float:
        """Return images/s of calls, each of so many images: the median over runs of some calls between two waits."""
        once = statistics.median(self._seconds(act) for _ in range(2))
        calls = max(1, min(self.limit.steps // 4, int(0.2 / once)))
        runs = []
        for _ in self._series():
            runs.append(self._seconds(lambda: _repeat(act, calls)) / calls)
            if len(runs) * calls >= self.limit.steps:
                break
        return images / statistics.median(runs)

    def close(self) -> None:
        """Give the memory back and end the workers."""
        self._solo.clear()
        del self.lanes, self.trainer, self.stream, self.teacher
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _repeat(act: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        act()


def _move(lane: Lane) -> None:
    """Step a lane's optimizers as the engine does."""
    if lane.recipe.clip_grad:
        torch.nn.utils.clip_grad_norm_(parameters_of(lane.optimizer), lane.recipe.clip_grad)
    for optimizer in (lane.optimizer, *lane.extra_optimizers):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    lane.method.step_end()
    if lane.ema:
        lane.ema.update(lane.method.student)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


_rates: dict[tuple[str, str, int], float] = {}


def matrix_rate(device: torch.device, precision: str) -> float:
    """Return multiply-adds/s of a large matrix product in float32 as torch is set, or bfloat16; once a process."""
    key = str(device), precision, torch.get_num_threads()
    if key not in _rates:
        size, dtype = MATRIX.get(device.type, 1024), torch.bfloat16 if precision == "bf16" else torch.float32
        a = torch.randn(size, size, device=device, dtype=dtype)
        times = []
        for _ in range(8):
            wait(device)
            started = time.perf_counter()
            a @ a
            wait(device)
            times.append(time.perf_counter() - started)
        _rates[key] = size**3 / min(times)
    return _rates[key]


def measure_group(
    cells: Sequence[Cell], runtime: Runtime, limit: Limit = Limit(), synthetic: bool = False
) -> GroupSpeed:
    """Return the speed of cells that share one pass; see `SpeedBench`."""
    bench = SpeedBench(cells, runtime, limit, synthetic)
    try:
        return bench.measure()
    finally:
        bench.close()
