"""Frames of records: a row a run, and a row a measured cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cakdbench.labels import split
from cakdbench.records import Record
from cakdbench.store import canonical
from cakdbench.utils.errors import UsageError

NOT_SUBMITTED = "not submitted"
RUN_TYPES = {
    **dict.fromkeys(
        ("key", "method", "variant", "teacher", "student", "pair", "dataset", "recipe", "precision"), "str"
    ),
    **{"seed": "int64", "trials": "int64", "status": "str", "excluded": "str"},
    **dict.fromkeys(("top1", "top5", "ema_top1", "optimistic_top1"), "float64"),
    "optimistic_epoch": "int64",
    **dict.fromkeys(("teacher_top1", "teacher_top5", "teacher_expected"), "float64"),
    **{"teacher_source": "str", "teacher_mismatch": "bool"},
    **dict.fromkeys(("student_parameters", "extra_parameters"), "int64"),
    **dict.fromkeys(("seconds", "images_per_second", "peak_memory_mb", "energy_wh"), "float64"),
    **{"device": "str", "processes": "int64", "threads": "int64", "lanes": "int64"},
    **{"compiled": "bool", "channels_last": "bool", "versions": "str", "finished": "str", "engine_version": "int64"},
    **{"fingerprint": "str", "skipped": "int64"},
    **dict.fromkeys(("teacher_sha256", "method_source", "weights_sha256", "predictions_sha256"), "str"),
    "path": "str",
}
"""The columns of `runs_frame` and their types, in order."""
NETWORK = "top1_"
"""Begins the columns of further networks, and of corruptions."""
MEASURED_BY = ["pair", "recipe", "method", "device", "precision"]
MEASURED = ["images_per_second", "peak_memory_mb", "seconds", "gpu_hours", "energy_wh"]


@dataclass(frozen=True)
class StoredRecord:
    """A record and where it lies.

    Attributes:
        path: its file, `<key>/record.json` of a store or `<method>/<key>.json` of a results folder; None: nowhere.
        status: claimed, re-scored or re-run; None if it is not submitted.
    """

    record: Record
    path: Path | None = None
    status: str | None = None


def runs_frame(stored: Iterable[StoredRecord], excluded: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return a row a run, with the columns of `RUN_TYPES`, and one a further number that runs have.

    The latter are `top1_NAME` of networks that methods have evaluated, as `top1_assistant` of FBT, and of corruptions
    that recipes ask for, as `top1_gaussian_noise=0.18`.

    Args:
        excluded: the reason why a run does not count, by key.
    """
    reasons = excluded or {}
    rows = [_run_row(run) | {"excluded": reasons.get(run.record.key)} for run in stored]
    more = sorted({name for row in rows for name in row if name.startswith(NETWORK)})
    return typed_frame(rows, RUN_TYPES | dict.fromkeys(more, "float64"))


def pair_of(record: Record) -> str:
    """Return `TEACHER>STUDENT@DATASET`; without a teacher a run belongs to no pair, and this is `STUDENT@DATASET`."""
    identity = record.identity
    student = f"{identity.student}@{identity.dataset.name}"
    return f"{identity.teacher.model}>{student}" if identity.teacher else student


def measured_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return what finished runs say of their costs, a row for the runs of one method on one device, by pair.

    Means over runs with the same settings, all of a lane's own work; data and the shared teacher pass are in none of
    the times. Missing where no run has them.

    Columns:
        method; pair, recipe, device, precision. runs: how many, over seeds.
        images_per_second. peak_memory_mb: in 2^20 bytes, as if the student trained alone.
        seconds: wall time of training and evaluation. gpu_hours: that x processes, none on a CPU.
        energy_wh: as the device reports it.
    """
    records = list(records)
    runs = runs_frame(map(StoredRecord, records))
    runs["settings"] = [canonical(record.identity.model_copy(update={"seed": 0})) for record in records]
    hours = runs["seconds"] * runs["processes"] / 3600
    runs["gpu_hours"] = hours.mask(runs["device"].str.startswith("CPU"))
    groups = runs.groupby([*MEASURED_BY, "settings", "processes"])
    means = groups[MEASURED].mean()
    means.insert(0, "runs", groups.size())
    return means.reset_index()[[*MEASURED_BY, "runs", *MEASURED]]


def typed_frame(rows: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """Return a frame of these columns and types, also if there is no row; what a row does not have is missing."""
    return pd.DataFrame(rows, columns=list(types)).astype(dict(types))


def check_columns(frame: pd.DataFrame, needed: Iterable[str]) -> None:
    """Raise UsageError if a frame lacks columns."""
    if missing := [name for name in needed if name not in frame]:
        raise UsageError(f"the frame has no column {', '.join(missing)}: give runs as `load_results` returns them")


def _run_row(stored: StoredRecord) -> dict[str, Any]:
    record, identity = stored.record, stored.record.identity
    return {
        "key": record.key,
        "method": record.label,
        "variant": split(record.label)[1],
        "student": identity.student,
        "pair": pair_of(record),
        "dataset": identity.dataset.name,
        "recipe": record.recipe_name,
        "precision": identity.precision,
        "seed": identity.seed,
        "trials": record.tuning.trials if record.tuning else 0,
        "status": stored.status or NOT_SUBMITTED,
        **record.result.model_dump(exclude={"networks", "corruptions"}),
        **_teacher_values(record),
        "student_parameters": record.student_parameters,
        "extra_parameters": record.extra_parameters,
        **record.conditions.model_dump(exclude={"versions", "lanes"}),
        "lanes": len(record.conditions.lanes),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record.conditions.versions.items())),
        "engine_version": identity.engine_version,
        "fingerprint": identity.dataset.fingerprint,
        "skipped": identity.dataset.skipped or 0,
        "method_source": record.method_source,
        "weights_sha256": record.weights_sha256,
        "predictions_sha256": record.predictions_sha256,
        "path": str(stored.path) if stored.path else None,
        **{NETWORK + name: top1 for name, top1 in (record.result.networks or {}).items()},
        **{NETWORK + str(each.corruption): each.top1 for each in record.result.corruptions or ()},
    }


def _teacher_values(record: Record) -> dict[str, Any]:
    identity, facts = record.identity.teacher, record.teacher
    return {
        "teacher": identity and identity.model,
        "teacher_sha256": identity and identity.sha256,
        "teacher_top1": facts and facts.measured,
        "teacher_top5": facts and facts.measured_top5,
        "teacher_expected": facts and facts.expected,
        "teacher_source": facts and facts.source,
        "teacher_mismatch": bool(facts and facts.mismatch_allowed),
    }
