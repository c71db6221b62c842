"""How the runs of a block were made: recipes, software, devices, speed."""

from statistics import fmean

import pandas as pd

from cakdbench.reports.blocks import Block, BlockColumn
from cakdbench.reports.board import table
from cakdbench.reports.text import MISSING, points, span

CONDITIONS = ("pair", "dataset, fingerprint", "recipe", "epochs", "batch (local)", "image", "teacher's weights")
RUNS = (
    *("method", "pair", "status", "device", "processes", "threads", "time s", "images/s", "peak MB", "energy Wh"),
    *("student parameters", "extra parameters", "lanes", "options"),
)


def conditions_table(block: Block) -> pd.DataFrame:
    """Return the recipe, the data and the teacher's weights of each pair."""
    rows = []
    for place in block.columns:
        column, numbers = place.column, place.column.numbers
        dataset = " ".join([column.dataset, *(f"`{text[:8]}`" for text in place.runs["fingerprint"][:1])])
        batch = f"{numbers['global_batch']} ({numbers['local_batch']})"
        sizes = str(numbers["epochs"]), batch, str(numbers["image_size"])
        rows.append((place.name, dataset, column.recipe, *sizes, _teacher_facts(place)))
    return table(CONDITIONS, rows)


def _teacher_facts(column: BlockColumn) -> str:
    if not column.taught:
        return MISSING
    record = column.taught[0]
    assert record.teacher and record.identity.teacher  # as all that are taught
    expected = "" if record.teacher.expected is None else f", entry says {points(record.teacher.expected)}"
    return f"{record.teacher.source} `{record.identity.teacher.sha256[:8]}`{expected}"


def versions(block: Block) -> list[str]:
    """Return the software of the runs, with counts if they differ."""
    counts = pd.concat([column.runs["versions"] for column in block.columns]).value_counts()
    if len(counts) == 1:
        return list(counts.index)
    return [f"{count} runs with {text}" for text, count in sorted(counts.items())]


def runs_table(block: Block) -> pd.DataFrame:
    """Return how the runs of each cell were computed, and their status."""
    cells = ((row.label, score) for row in block.rows for score in row.scores if score.seeds)
    return table(RUNS, ((label, score.column.name, *_run_facts(score.runs)) for label, score in cells))


def _run_facts(runs: pd.DataFrame) -> list[str]:
    options = {"compiled": runs["compiled"], "channels last": runs["channels_last"]}
    return [
        *(", ".join(sorted(set(runs[name]))) for name in ("status", "device")),
        *(span(runs[name]) for name in ("processes", "threads")),
        *(_mean(runs[name].dropna()) for name in ("seconds", "images_per_second", "peak_memory_mb", "energy_wh")),
        *(span(runs[name]) for name in ("student_parameters", "extra_parameters", "lanes")),
        ", ".join(name if values.all() else f"{name} in part" for name, values in options.items() if values.any()),
    ]


def _mean(values: pd.Series) -> str:
    return f"{fmean(values):,.0f}" if len(values) else MISSING
