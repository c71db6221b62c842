"""How the runs of a block were made: recipes, software, devices, speed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean

import pandas as pd

from cakdbench.records import Record
from cakdbench.reports.blocks import Block, BlockColumn, Score
from cakdbench.reports.board import table
from cakdbench.reports.results_table import pair_text
from cakdbench.reports.text import MISSING, points, span
from cakdbench.results.frame import NOT_SUBMITTED

CONDITIONS = ("pair", "dataset, fingerprint", "recipe", "epochs", "batch (local)", "image", "teacher's weights")
RUNS = (
    *("method", "pair", "status", "device", "processes", "threads", "time s", "images/s", "peak MB", "energy Wh"),
    *("student parameters", "extra parameters", "lanes", "options"),
)


def conditions_table(block: Block) -> pd.DataFrame:
    """Return the recipe, the data and the teacher's weights of each pair."""
    rows = []
    for filled in block.columns:
        column, numbers = filled.column, filled.column.numbers
        dataset = column.dataset + (f" `{filled.fingerprint[:8]}`" if filled.fingerprint else "")
        batch = f"{numbers['global_batch']} ({numbers['local_batch']})"
        sizes = str(numbers["epochs"]), batch, str(numbers["image_size"])
        rows.append((pair_text(column, block, ", "), dataset, column.recipe, *sizes, _teacher_facts(filled)))
    return table(CONDITIONS, rows)


def _teacher_facts(column: BlockColumn) -> str:
    if not column.taught:
        return MISSING
    record = column.taught[0]
    expected = "" if record.teacher.expected is None else f", entry says {points(record.teacher.expected)}"
    return f"{record.teacher.source} `{record.identity.teacher.sha256[:8]}`{expected}"


def versions(records: Iterable[Record]) -> list[str]:
    """Return the software of the runs, with counts if they differ."""
    counts = Counter(", ".join(f"{k} {v}" for k, v in sorted(r.conditions.versions.items())) for r in records)
    if len(counts) == 1:
        return list(counts)
    return [f"{count} runs with {text}" for text, count in sorted(counts.items())]


def runs_table(block: Block, statuses: Mapping[str, str]) -> pd.DataFrame:
    """Return how the runs of each cell were computed, and their status by key of the record."""
    rows = [
        (row.label, pair_text(column.column, block, ", "), *_run_facts(score, statuses))
        for row in block.rows
        for column, score in zip(block.columns, row.scores, strict=True)
        if score.records
    ]
    return table(RUNS, rows)


def _run_facts(score: Score, statuses: Mapping[str, str]) -> list[str]:
    conditions = [record.conditions for record in score.records]
    options = {"compiled": [c.compiled for c in conditions], "channels last": [c.channels_last for c in conditions]}
    return [
        ", ".join(sorted({statuses.get(record.key, NOT_SUBMITTED) for record in score.records})),
        ", ".join(sorted({c.device for c in conditions})),
        span(c.processes for c in conditions),
        span(c.threads for c in conditions),
        f"{fmean(c.seconds for c in conditions):,.0f}",
        f"{fmean(c.images_per_second for c in conditions):,.0f}",
        _mean(c.peak_memory_mb for c in conditions),
        _mean(c.energy_wh for c in conditions),
        span(record.student_parameters for record in score.records),
        span(record.extra_parameters for record in score.records),
        span(len(c.lanes) for c in conditions),
        ", ".join(name if all(values) else f"{name} in part" for name, values in options.items() if any(values)),
    ]


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):,.0f}" if known else MISSING
