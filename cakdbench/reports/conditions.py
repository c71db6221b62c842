"""How the runs of a block were made: recipes, software, devices, speed."""

from collections.abc import Mapping
from statistics import fmean

import pandas as pd

from cakdbench.reports.blocks import Block, BlockColumn
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


def versions(block: Block) -> list[str]:
    """Return the software of the runs, with counts if they differ."""
    counts = pd.concat([column.runs["versions"] for column in block.columns]).value_counts()
    if len(counts) == 1:
        return list(counts.index)
    return [f"{count} runs with {text}" for text, count in sorted(counts.items())]


def runs_table(block: Block, statuses: Mapping[str, str]) -> pd.DataFrame:
    """Return how the runs of each cell were computed, and their status by key of the record."""
    rows = []
    for row in block.rows:
        for column in block.columns:
            runs = column.runs[column.runs["method"] == row.label]
            if len(runs):
                rows.append((row.label, pair_text(column.column, block, ", "), *_run_facts(runs, statuses)))
    return table(RUNS, rows)


def _run_facts(runs: pd.DataFrame, statuses: Mapping[str, str]) -> list[str]:
    options = {"compiled": runs["compiled"], "channels last": runs["channels_last"]}
    return [
        ", ".join(sorted({statuses.get(key, NOT_SUBMITTED) for key in runs["key"]})),
        ", ".join(sorted(set(runs["device"]))),
        *(span(runs[name]) for name in ("processes", "threads")),
        *(_mean(runs[name].dropna()) for name in ("seconds", "images_per_second", "peak_memory_mb", "energy_wh")),
        *(span(runs[name]) for name in ("student_parameters", "extra_parameters", "lanes")),
        ", ".join(name if values.all() else f"{name} in part" for name, values in options.items() if values.any()),
    ]


def _mean(values: pd.Series) -> str:
    return f"{fmean(values):,.0f}" if len(values) else MISSING
