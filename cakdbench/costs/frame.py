"""Counted and measured costs as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from cakdbench.costs.method_costs import MethodCost, method_costs
from cakdbench.grid.plan import Refusal, full_label
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.records import Identity, Record
from cakdbench.registry import methods_named
from cakdbench.store import canonical
from cakdbench.utils.errors import UsageError

NAMES = ["method", "pair", "teacher", "student", "dataset", "recipe"]
COUNTS = [field.name for field in fields(MethodCost) if field.name not in ("label", "pair")]
INTEGERS = [name for name in COUNTS if name not in ("teacher_pass", "buffers_mb")]
MEASURED_NAMES = ["pair", "recipe", "method", "device", "precision"]
MEASURED = ["images_per_second", "peak_memory_mb", "seconds", "gpu_hours", "energy_wh"]


def count_costs(
    methods: str | Iterable[str],
    pairs: str,
    recipe: str | None = None,
    num_classes: int | None = None,
    data_dir: Path | None = None,
) -> pd.DataFrame:
    """Return what methods cost on pairs, a row a method and pair, counted without weights, data or training.

    Columns:
        method: as users write it, `fbt` or `fbt:no_infonce`. pair, teacher, student, dataset, recipe: where.
        classes, image_size, local_batch and all counts: the attributes of `MethodCost`. MACs are multiply-adds of
            forward passes per image.
        refusal: why the method does not take the pair; then there are no counts.

    Args:
        methods: a list, or names separated by commas: `METHOD`, `METHOD:VARIANT`, `METHOD[KEY=1|2]`, `all`.
        pairs: suites or pairs, separated by commas.
        recipe: for all pairs, instead of each pair's own.
        num_classes: of both classifiers; None: the dataset's.
        data_dir: where the datasets lie; only for `timm:` datasets.

    Raises:
        UsageError: a name is unknown, a setting impossible, or no method named.
        CountError: a method's own code fails.
    """
    labels = methods_named(methods) if isinstance(methods, str) else list(methods)
    labels = list(dict.fromkeys(map(full_label, labels)))
    if not labels:
        raise UsageError("no methods named; give a list of them, or all")
    rows = _rows(labels, resolve_pairs(pairs, recipe), num_classes, data_dir)
    frame = pd.DataFrame(rows, columns=[*NAMES, *COUNTS, "refusal"])
    return frame.astype(dict.fromkeys(INTEGERS, "Int64"))


def _rows(
    labels: list[str], specs: list[PairSpec], classes: int | None, data_dir: Path | None
) -> Iterator[dict[str, Any]]:
    for spec in specs:
        pair = spec.pair
        names = {"pair": str(pair), "teacher": pair.teacher, "student": pair.student}
        names |= {"dataset": pair.dataset, "recipe": spec.recipe}
        for cost in method_costs(labels, [spec], classes, data_dir):
            counted = {"refusal": cost.reason} if isinstance(cost, Refusal) else asdict(cost) | {"refusal": None}
            yield counted | names | {"method": cost.label}


def measured_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return what finished runs say of their costs, a row for the runs of one method on one device, by pair.

    Means over runs with the same settings, all of a lane's own work; data and the shared teacher pass are in none of
    the times. Missing where no run has them.

    Columns:
        method; pair, without a teacher `STUDENT@DATASET`; recipe, device, precision. runs: how many, over seeds.
        images_per_second. peak_memory_mb: in 2^20 bytes, of all students trained side by side.
        seconds: wall time of training and evaluation. gpu_hours: that x processes, none on a CPU.
        energy_wh: as the device reports it.
    """
    frame = pd.DataFrame(map(_measured, records), columns=[*MEASURED_NAMES, "settings", "processes", *MEASURED])
    grouped = frame.astype(dict.fromkeys(MEASURED, float)).groupby(
        [*MEASURED_NAMES, "settings", "processes"], sort=False
    )
    means = grouped[MEASURED].mean()
    means.insert(0, "runs", grouped.size())
    means = means.reset_index().sort_values(MEASURED_NAMES, kind="stable", ignore_index=True)
    return means[[*MEASURED_NAMES, "runs", *MEASURED]]


def _measured(record: Record) -> dict[str, Any]:
    identity, conditions = record.identity, record.conditions
    on_cpu = conditions.device.startswith("CPU")
    return {
        "method": record.label,
        "pair": pair_of(identity),
        "recipe": record.recipe_name,
        "device": conditions.device,
        "precision": identity.precision,
        "settings": canonical(identity.model_copy(update={"seed": 0})),
        "processes": conditions.processes,
        "images_per_second": conditions.images_per_second,
        "peak_memory_mb": conditions.peak_memory_mb,
        "seconds": conditions.seconds,
        "gpu_hours": None if on_cpu else conditions.seconds * conditions.processes / 3600,
        "energy_wh": conditions.energy_wh,
    }


def pair_of(identity: Identity) -> str:
    """Return the pair of a run as it is written on the command line."""
    student = f"{identity.student}@{identity.dataset.name}"
    return f"{identity.teacher.model}>{student}" if identity.teacher else student
