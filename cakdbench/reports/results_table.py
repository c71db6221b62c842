"""The main table of a block: methods by pairs, each cell with its numbers, marks and what is told of it on request."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from cakdbench.published.ledger import Printed, sources
from cakdbench.reports.blocks import SCRATCH, TEACHER, Block, BlockColumn, Row, Score
from cakdbench.reports.board import BREAK, Cell, Detail, table
from cakdbench.reports.missing import commands
from cakdbench.reports.printed import cited, printed_averages, printed_values
from cakdbench.reports.text import MISSING, REFUSED, plain, points, span
from cakdbench.submissions.status import CLAIMED

MISMATCH, FEWER_SEEDS, UNSTABLE, CLAIM = "†", "‡", "~", "°"
MARKS = {
    MISMATCH: "the teacher's accuracy was off its registry entry, and the run allowed it",
    FEWER_SEEDS: "gain over the seeds that scratch has too, not over all seeds of the mean",
    UNSTABLE: "its seeds differ far more than those of the other methods: not tested, without a letter",
    CLAIM: "claimed by its submitter and not re-scored yet: without rank, letter and bold",
}
NOT_INSTALLED = "not installed"
"""The kind of a method that is known from papers alone."""
UNMEASURED = ("Top-1 accuracy in percent, last epoch",)
MEASURED = (
    "Top-1 accuracy in percent, last epoch: mean ± standard deviation over seeds (gain over scratch in points)",
    "Bold: the best of a pair and what cannot be told apart from it; methods that share a letter cannot be told apart",
)
"""How a caption says the cells are read."""
ENDINGS = ("average gain", "rank", "group", "seeds")


def results_table(block: Block) -> pd.DataFrame:
    """Return methods by pairs: accuracy and gain, printed values below; then average gain, rank, group, seeds."""
    heads = ["method", *(column.head for column in block.columns), *ENDINGS]
    teachers: list[Cell | str | float | None] = [Cell(TEACHER, emphasis=True)]
    teachers += [*map(_teacher_cell, block.columns), *[""] * len(ENDINGS)]
    return table(heads, [teachers, *(_row(row, block) for row in block.rows)])


def _teacher_cell(column: BlockColumn) -> Cell:
    runs = column.settled[column.settled["teacher"].notna()]
    values = sorted(set((runs if len(runs) else column.runs)["teacher_top1"].dropna().round(2)))
    # Devices may disagree in the last digits: then the cell is a range, and there is no one number.
    return Cell(
        span(values, ".2f") or MISSING,
        measured=values[0] if len(values) == 1 else None,
        marks=(MISMATCH,) if column.settled["teacher_mismatch"].any() else (),
        printed=printed_values(column, TEACHER),
    )


def _row(row: Row, block: Block) -> list[Cell]:
    rank, letters = block.standings.ranks.get(row.label), block.standings.letters.get(row.label, MISSING)
    return [
        method_cell(row),
        *(_score_cell(row, place, block) for place in range(len(row.scores))),
        _average_cell(row, block),
        Cell(points(rank), measured=rank),
        Cell(letters),
        Cell(span(row.counts) or MISSING, measured=max(row.counts, default=None)),
    ]


def method_cell(row: Row) -> Cell:
    """Return the title, and the id where it does not show it."""
    code = "" if row.title.lower() == row.label else row.label
    return Cell(row.title, code=code, kind=row.kind or NOT_INSTALLED)


def _score_cell(row: Row, place: int, block: Block) -> Cell:
    score = row.scores[place]
    marks = score_marks(row, place, block)
    printed, detail = printed_values(score.column, row.label), _detail(row, score, block, marks)
    if not score.seeds:
        return Cell(MISSING if score.refusal is None or printed else REFUSED, printed=printed, detail=detail)
    return Cell(
        measured=score.mean,
        sd=score.sd,
        gain=score.gain,
        seeds=len(score.seeds),
        uneven=len(set(row.counts)) > 1,
        marks=marks,
        printed=printed,
        best=row.label in block.standings.level[place],
        detail=detail,
    )


def score_marks(row: Row, place: int, block: Block) -> tuple[str, ...]:
    """Return the marks of a cell, see `MARKS`."""
    score = row.scores[place]
    holds = {
        MISMATCH: bool(score.runs["teacher_mismatch"].any()),
        FEWER_SEEDS: score.gain is not None and score.runs["gain"].hasnans,
        UNSTABLE: row.label in block.standings.unstable[place],
        CLAIM: CLAIMED in set(score.runs["status"]),
    }
    return tuple(mark for mark, true in holds.items() if true)


def _average_cell(row: Row, block: Block) -> Cell:
    """Return the average gain, and over how many of the pairs if not all."""
    average, printed = row.average_gain, printed_averages(row.label, block)
    if row.label == SCRATCH or average is None:
        return Cell("" if row.label == SCRATCH else MISSING, printed=printed)
    pairs = "" if row.is_whole else f" ({len(row.gains)} of {row.pairs} pairs)"
    return Cell(points(average, signed=True) + pairs, measured=average, printed=printed)


def _detail(row: Row, score: Score, block: Block, marks: tuple[str, ...]) -> Detail:
    return Detail(
        title=f"{row.title} on {score.column.name}",
        notes=tuple(_notes(row, score, marks)),
        runs=tuple(map(_run_facts, score.runs.itertuples())) if score.seeds else (),
        printed=tuple(map(_printed_facts, score.printed())),
        command=BREAK.join(commands(block.missing_of(row, score))) or None,
    )


def _notes(row: Row, score: Score, marks: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{mark} {MARKS[mark]}" for mark in marks)
    if row.kind is None:
        yield "There is no such method here: known from papers alone."
    elif score.refusal is not None:
        yield f"Refused: {score.refusal}"
    elif not score.seeds:
        yield "Not measured yet."


def _run_facts(run: Any) -> tuple[str, ...]:
    """Return what `RUN_HEADS` says of a row of the frame of runs."""
    numbers = points(run.gain, signed=True), points(run.optimistic_top1), points(run.ema_top1)
    return str(run.seed), points(run.top1), *numbers, run.status, run.device, f"{run.seconds:,.0f}"


def _printed_facts(printed: Printed) -> tuple[str, ...]:
    source = sources()[printed.source]
    where = f"{source.mark}: {printed.source}"
    return printed.value, where, printed.table, printed.printed_as, printed.note, source.citation


def caption(title: str, block: Block) -> str:
    """Return what lets a block's table stand alone: its conditions, and how its cells are read."""
    columns = [column.column for column in block.columns]
    seeds = span(count for row in block.rows for count in row.counts)
    conditions = [
        f"dataset {block.dataset}",
        f"recipe {', '.join(dict.fromkeys(column.recipe for column in columns))}",
        f"{span(column.numbers['epochs'] for column in columns)} epochs",
        f"{span(column.numbers['image_size'] for column in columns)} px",
        f"precision {block.precision}",
        *([f"seeds: {seeds}"] if seeds else []),
    ]
    sentences = [f"{plain(title)} ({plain('; '.join(conditions))})", *(MEASURED if seeds else UNMEASURED)]
    if letters := ", ".join(f"{sources()[key].mark}: {key}" for key in cited(block)):
        sentences.append(f"*Italics: printed in papers, not measured here* ({letters})")
    return ". ".join(sentences) + "."
