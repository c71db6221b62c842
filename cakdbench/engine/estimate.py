"""Estimates of how long a plan takes: from a cost model within seconds, or measured step by step.

The cost model multiplies counted multiply-adds by one rate of the device: a training step costs three forward passes
(its own, and two for the gradients of inputs and weights), the teacher's pass costs one. The rate is that of a real
step of the plan's middle student. Work that `cakdbench speed` has measured on an equal device takes its speed from
there; else work that has a record from one, from the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator

from cakdbench.engine.work import Work, count_macs, list_work, measure
from cakdbench.grid.plan import Cell
from cakdbench.records import Record
from cakdbench.utils.device import device_name
from cakdbench.utils.errors import RAISED, describe_error, file_of

T = TypeVar("T")

COUNTED, RECORDED, MEASURED = 2.5, 1.5, 1.5
"""By what factor estimates of each origin may be off, either way."""


@dataclass(frozen=True)
class Speed:
    """Seconds per image of a student's step and of the teacher's pass before it; `factor`: how far they may be off."""

    student: float
    teacher: float
    factor: float


@dataclass(frozen=True)
class Estimate:
    """Seconds of training in one process or one launch; rendering, evaluation and checkpoints come on top.

    Attributes:
        low, high: the range it is expected in.
        basis: where the numbers come from, for readers.
        failed: why work is not in it, a line a method that raises.
    """

    seconds: float
    low: float
    high: float
    basis: str
    failed: tuple[str, ...] = ()


class Speeds(NamedTuple):
    """Speeds of kinds of work by their keys, where they come from, and why kinds have none."""

    speeds: dict[tuple, Speed]
    basis: str
    failed: tuple[str, ...] = ()


def _try_each(kinds: dict[tuple, Work], act: Callable[[Work], T]) -> tuple[dict[tuple, T], tuple[str, ...]]:
    """Return what `act` gives for every kind of work, and a line for each whose method raises."""
    results: dict[tuple, T] = {}
    failed: dict[str, None] = {}
    for key, work in kinds.items():
        try:
            results[key] = act(work)
        except RAISED as error:  # a method may raise anything, and must not take the others with it
            failed[f"{work.cell.label} on {work.cell.pair}: {describe_error(error, file_of(work.cell.method))}"] = None
    return results, tuple(failed)


def model_speeds(
    works: Sequence[Work],
    accelerator: Accelerator,
    batch: int,
    records: Iterable[Record] = (),
    timed: Iterable[Mapping[str, Any]] = (),
) -> Speeds:
    """Return the speed of every kind of work by its key: as measured, from records, or from the cost model.

    Args:
        batch: images in the one step that is timed for the device's rate.
        records: of earlier runs, on whatever device.
        timed: groups that `cakdbench speed` has measured, on whatever device, the newest last.
    """
    kinds = {work.key: work for work in works}
    known = _timed_speeds(timed, kinds, accelerator)
    others = _counted_speeds({key: kinds[key] for key in kinds if key not in known}, accelerator, batch, records)
    if not known:
        return others
    basis = f"{len(known)} of {len(kinds)} kinds of runs as `cakdbench speed` has measured them here"
    basis = f"{basis}; {others.basis}" if others.speeds or others.failed else basis
    return Speeds(known | others.speeds, basis, others.failed)


def _counted_speeds(
    kinds: dict[tuple, Work], accelerator: Accelerator, batch: int, records: Iterable[Record]
) -> Speeds:
    """Return the speeds of kinds of work from records where there are any, else from the cost model."""
    macs, failed = _try_each(kinds, count_macs)
    rates: dict[tuple, float] = {}
    while macs and not rates:
        work = probe(kinds, macs)
        rates, more = _try_each({work.key: work}, lambda work: measure_rate(work, macs[work.key], accelerator, batch))
        if more:
            del macs[work.key]
        failed += more
    if not macs:
        return Speeds({}, "nothing that could be counted", failed)
    (rate,), kinds = rates.values(), {key: kinds[key] for key in macs}
    name = f"{work.cell.label} on {work.cell.pair.student}"
    recorded = _recorded_seconds(records, kinds, accelerator)
    speeds = {}
    for key, (student, teacher) in macs.items():
        seconds = recorded.get(key, student / rate)
        speeds[key] = Speed(seconds, teacher / rate, RECORDED if key in recorded else COUNTED)
    known = f"{len(recorded)} of {len(kinds)} kinds of runs as earlier ones on this device; " if recorded else ""
    return Speeds(speeds, f"{known}counted multiply-adds at {rate / 1e9:,.1f} G/s, timed with a step of {name}", failed)


_rates: dict[tuple, float] = {}
"""Multiply-adds per second by device, precision, threads and probe, once per process."""


def probe(kinds: dict[tuple, Work], macs: dict[tuple, tuple[float, float]]) -> Work:
    """Return the work of the middle one of the students that `macs` has.

    Of a student's methods the first is taken, which is scratch as long as there is work for it.
    """
    students = {kinds[key].cell.pair.student: key for key in reversed(macs)}
    keys = sorted(students.values(), key=lambda key: macs[key][0])
    return kinds[keys[len(keys) // 2]]


def measure_rate(work: Work, macs: tuple[float, float], accelerator: Accelerator, batch: int) -> float:
    """Time a step; return its multiply-adds per second."""
    place = str(accelerator.device), accelerator.mixed_precision, torch.get_num_threads(), batch, work.key
    if place not in _rates:
        seconds, _ = measure(work, accelerator, batch)
        _rates[place] = macs[0] / seconds
    return _rates[place]


def measure_speeds(works: Sequence[Work], accelerator: Accelerator, batch: int) -> Speeds:
    """Return the speed of every kind of work by its key, each from a timed step."""
    kinds = {work.key: work for work in works}
    speeds, failed = _try_each(kinds, lambda work: Speed(*measure(work, accelerator, batch), MEASURED))
    return Speeds(speeds, f"one timed step of each of {len(speeds)} kinds", failed)


def _recorded_seconds(
    records: Iterable[Record], kinds: dict[tuple, Work], accelerator: Accelerator
) -> dict[tuple, float]:
    """Return seconds per image of a student's step, for the kinds of work that have records from an equal device."""
    device, threads = device_name(accelerator.device), torch.get_num_threads()
    speeds: dict[tuple, list[float]] = {}
    for record in records:
        place = record.conditions
        if (place.device, place.threads, place.processes) == (device, threads, 1) and place.images_per_second > 0:
            speeds.setdefault(_form(record), []).append(1 / place.images_per_second)
    forms = {key: _form_of(work.cell) for key, work in kinds.items()}
    return {key: fmean(speeds[form]) for key, form in forms.items() if form in speeds}


def _timed_speeds(
    groups: Iterable[Mapping[str, Any]], kinds: dict[tuple, Work], accelerator: Accelerator
) -> dict[tuple, Speed]:
    """Return the speeds of the kinds of work that have been measured on an equal device, as they are run by default."""
    device, threads = device_name(accelerator.device), torch.get_num_threads()
    speeds: dict[tuple, Speed] = {}
    for group in groups:
        if (group["device"], group["threads"], group["compiled"]) == (device, threads, False):
            form = group["pair"], group["image_size"], group["precision"]
            teacher = group["teacher"] / group["local_batch"]
            for lane in filter(lambda lane: lane["phases"], group["lanes"]):
                seconds = sum(lane["phases"].values()) / group["local_batch"]
                speeds[lane["method"], *form] = Speed(seconds, teacher, MEASURED)
    cells = {key: work.cell for key, work in kinds.items()}
    forms = {
        key: (cell.label, str(cell.pair.without_runs), cell.recipe.image_size, cell.precision)
        for key, cell in cells.items()
    }
    return {key: speeds[form] for key, form in forms.items() if form in speeds}


def _form(record: Record) -> tuple[object, ...]:
    identity = record.identity
    models = identity.teacher and identity.teacher.model, identity.student
    return record.label, *models, identity.dataset.name, record.recipe["image_size"], identity.precision


def _form_of(cell: Cell) -> tuple[object, ...]:
    pair = cell.pair.without_runs
    models = pair.teacher if cell.needs_teacher else None, pair.student
    return cell.label, *models, pair.dataset, cell.recipe.image_size, cell.precision


Taped = Callable[[Sequence[Cell]], int]
"""Returns of cells that share a teacher's pass how many of its epochs come from tape."""


def none_taped(cells: Sequence[Cell]) -> int:
    """Return 0: there is no tape."""
    return 0


def add_up(
    works: Sequence[Work],
    speeds: dict[tuple, Speed],
    basis: str,
    failed: tuple[str, ...] = (),
    processes: int = 1,
    taped: Taped = none_taped,
) -> Estimate:
    """Return the estimate for all work that has a speed; a teacher runs once for the cells that share it."""
    parts = list(_parts([work for work in works if work.key in speeds], speeds, processes, taped))
    return Estimate(
        seconds=sum(seconds for seconds, _ in parts),
        low=sum(seconds / factor for seconds, factor in parts),
        high=sum(seconds * factor for seconds, factor in parts),
        basis=basis,
        failed=failed,
    )


def _parts(
    works: Sequence[Work], speeds: dict[tuple, Speed], processes: int, taped: Taped
) -> Iterator[tuple[float, float]]:
    """Yield seconds, and by what factor they may be off."""
    groups: dict[object, list[Work]] = {}
    for work in works:
        speed = speeds[work.key]
        yield work.samples * work.cell.recipe.epochs / processes * speed.student, speed.factor
        groups.setdefault(work.cell.shared, []).append(work)
    for group in groups.values():
        live = group[0].cell.recipe.epochs - taped([work.cell for work in group])
        passes = (speeds[work.key] for work in group)
        yield max((group[0].samples * live / processes * speed.teacher, speed.factor) for speed in passes)


def estimate(
    cells: Sequence[Cell],
    accelerator: Accelerator,
    *,
    data_dir: Path | None = None,
    records: Iterable[Record] = (),
    timed: Iterable[Mapping[str, Any]] = (),
    measured: bool = False,
    taped: Taped = none_taped,
) -> Estimate:
    """Return how long the cells take to train on this device.

    Args:
        data_dir: where the datasets lie; only for `timm:` datasets.
        records: earlier runs, whose speed counts where they ran on an equal device.
        timed: groups that `cakdbench speed` has measured, likewise.
        measured: time a step of every kind of work, minutes for a large plan, instead of counting.
        taped: tells of epochs that the teachers are spared.
    """
    works, batch = list_work(cells, data_dir), _probe_batch(cells, accelerator)
    place = works, accelerator, batch
    found = measure_speeds(*place) if measured else model_speeds(*place, records, timed)
    return add_up(works, *found, processes=accelerator.num_processes, taped=taped)


def _probe_batch(cells: Sequence[Cell], accelerator: Accelerator) -> int:
    """Return the images in a timed step: the recipe's batch on a GPU, a few on a CPU."""
    if accelerator.device.type == "cuda":
        return min(cell.recipe.local_batch for cell in cells)
    return 32 if max(cell.recipe.image_size for cell in cells) <= 96 else 4
