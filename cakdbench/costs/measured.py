"""What finished runs say of their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from cakdbench.records import Conditions, Identity, Record
from cakdbench.store import canonical


@dataclass(frozen=True)
class Measured:
    """Means over the runs of one method with the same settings on the same device, all of a lane's own work.

    Data and the shared teacher pass are in none of the times. Numbers are None where no run has them.

    Attributes:
        pair: `TEACHER>STUDENT@DATASET`; without a teacher `STUDENT@DATASET`.
        runs: how many, over seeds.
        seconds: wall time of training and evaluation.
        peak_memory_mb: of the device, in 2^20 bytes, of all students trained side by side.
        gpu_hours: wall time x processes; None on a CPU.
        energy_wh: as the device reports it.
    """

    label: str
    pair: str
    recipe: str
    device: str
    precision: str
    runs: int
    images_per_second: float
    peak_memory_mb: float | None
    seconds: float
    gpu_hours: float | None
    energy_wh: float | None


def measured(records: Iterable[Record]) -> list[Measured]:
    """Records grouped by all that can change what a run costs; in the order of pair, recipe, label, device."""
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    found = [_means(group) for group in groups.values()]
    return sorted(found, key=lambda each: (each.pair, each.recipe, each.label, each.device, each.precision))


def _key(record: Record) -> tuple[str, str, str, int]:
    identity, conditions = record.identity.model_copy(update={"seed": 0}), record.conditions
    return canonical(identity), record.recipe_name, conditions.device, conditions.processes


def _means(group: list[Record]) -> Measured:
    first = group[0]

    def mean(value: Callable[[Conditions], float | None]) -> float | None:
        values = [x for record in group if (x := value(record.conditions)) is not None]
        return fmean(values) if values else None

    return Measured(
        label=first.label,
        pair=pair_of(first.identity),
        recipe=first.recipe_name,
        device=first.conditions.device,
        precision=first.identity.precision,
        runs=len(group),
        images_per_second=mean(lambda c: c.images_per_second),
        peak_memory_mb=mean(lambda c: c.peak_memory_mb),
        seconds=mean(lambda c: c.seconds),
        gpu_hours=mean(_gpu_hours),
        energy_wh=mean(lambda c: c.energy_wh),
    )


def _gpu_hours(conditions: Conditions) -> float | None:
    if conditions.device.startswith("CPU"):
        return None
    return conditions.seconds * conditions.processes / 3600


def pair_of(identity: Identity) -> str:
    """The pair of a run as it is written on the command line."""
    student = f"{identity.student}@{identity.dataset.name}"
    return f"{identity.teacher.model}>{student}" if identity.teacher else student
