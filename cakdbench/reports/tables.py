"""The tables of a board as rows of text, for every format."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from cakdbench.records import Record
from cakdbench.reports.board import TEACHER, Aside, Block, BlockColumn, Row, Score
from cakdbench.reports.markup import BREAK, Table
from cakdbench.reports.printed import printed_average, printed_text
from cakdbench.reports.text import (
    MISSING,
    average_text,
    pair_text,
    points,
    score_text,
    seeds_text,
    span,
    teacher_text,
)
from cakdbench.submissions.entry import ExternalEntry

NOT_SUBMITTED = "not submitted"


def main_table(block: Block) -> Table:
    """Methods by pairs: measured accuracy and gain, printed values below; then average gain, rank, group, seeds."""
    heads = ["method", *(pair_text(column.column, block, BREAK) for column in block.columns)]
    teachers = [f"*{TEACHER}*", *map(_teacher_cell, block.columns), "", "", "", ""]
    return Table(
        [*heads, "average gain", "rank", "group", "seeds"], [teachers, *(_row(row, block) for row in block.rows)]
    )


def _teacher_cell(column: BlockColumn) -> str:
    return _both(teacher_text(column), printed_text(column.printed.get(TEACHER, ()), column.column))


def _both(measured: str, printed: str) -> str:
    """What was measured, and below it what is printed; in one line if nothing was measured."""
    between = " " if measured == MISSING else BREAK
    return between.join(filter(None, [measured, printed]))


def _cell(score: Score, row: Row, column: BlockColumn, best: bool) -> str:
    number, space, rest = score_text(score, row).partition(" (")
    measured = f"**{number}**{space}{rest}" if best else number + space + rest
    return _both(
        measured if score.records or not score.printed else MISSING, printed_text(score.printed, column.column)
    )


def _row(row: Row, block: Block) -> list[str]:
    standing = block.standings
    cells = [
        _cell(score, row, block.columns[place], place < len(standing.level) and row.label in standing.level[place])
        for place, score in enumerate(row.scores)
    ]
    rank = standing.ranks.get(row.label)
    ending = [MISSING if rank is None else f"{rank:.2f}", standing.letters.get(row.label, MISSING), seeds_text(row)]
    return [name(row), *cells, _both(average_text(row), printed_average(row.label, block)), *ending]


def name(row: Row) -> str:
    """The title, and the id where it does not show it."""
    return row.title if row.title.lower() == row.label else f"{row.title} `{row.label}`"


def certainty_table(block: Block) -> Table:
    rows = [
        [
            pair_text(each.column, block, ", "),
            f"{each.column.test_images:,}",
            f"{100 / each.column.test_images:.3g}",
            points(each.standard_error),
            points(each.indistinguishable),
        ]
        for each in block.columns
    ]
    return Table(["pair", "test images", "one image", "standard error", "independent: not told apart below"], rows)


def side_table(block: Block, value: Callable[[Record], float | None]) -> Table:
    """Another number of the records that the block counts, for the methods that have any."""
    heads = [pair_text(column.column, block, BREAK) for column in block.columns]
    measured = [row for row in block.rows if any(score.records for score in row.scores)]
    return Table(
        ["method", *heads],
        [[name(row), *(points(score.mean_of(value)) for score in row.scores)] for row in measured],
    )


def protocol_table(block: Block) -> Table:
    rows = []
    for each in block.columns:
        column, numbers = each.column, each.column.numbers
        rows.append(
            [
                pair_text(column, block, ", "),
                column.dataset + (f" `{each.fingerprint[:8]}`" if each.fingerprint else ""),
                column.recipe,
                str(numbers["epochs"]),
                f"{numbers['global_batch']} ({numbers['local_batch']})",
                str(numbers["image_size"]),
                _teacher_facts(each),
            ]
        )
    heads = ["pair", "dataset, fingerprint", "recipe", "epochs", "batch (local)", "image", "teacher's weights"]
    return Table(heads, rows)


def _teacher_facts(column: BlockColumn) -> str:
    if not column.taught:
        return MISSING
    record = column.taught[0]
    expected = "" if record.teacher.expected is None else f", entry says {points(record.teacher.expected)}"
    return f"{record.teacher.source} `{record.identity.teacher.sha256[:8]}`{expected}"


def versions(records: Iterable[Record]) -> list[str]:
    """The software of the runs, with counts if they differ."""
    counts = Counter(", ".join(f"{k} {v}" for k, v in sorted(r.conditions.versions.items())) for r in records)
    if len(counts) == 1:
        return list(counts)
    return [f"{count} runs with {text}" for text, count in sorted(counts.items())]


def runs_table(block: Block, statuses: Mapping[str, str]) -> Table:
    """How the runs of each cell were computed, and their status by key of the record."""
    heads = ["method", "pair", "status", "device", "processes", "threads", "time s", "images/s", "peak MB", "energy Wh"]
    heads += ["student parameters", "extra parameters", "lanes", "options"]
    rows = [
        [row.label, pair_text(column.column, block, ", "), *_run_facts(score, statuses)]
        for row in block.rows
        for column, score in zip(block.columns, row.scores, strict=True)
        if score.records
    ]
    return Table(heads, rows)


def _run_facts(score: Score, statuses: Mapping[str, str]) -> list[str]:
    conditions = [record.conditions for record in score.records]
    options = {
        "compiled": [c.compiled for c in conditions],
        "channels last": [c.channels_last for c in conditions],
    }
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


def aside_table(runs: Sequence[Aside]) -> Table:
    rows = [
        [
            run.record.label,
            run.pair,
            str(run.record.identity.seed),
            run.record.identity.precision,
            points(run.record.result.top1),
            "; ".join(run.reasons),
        ]
        for run in runs
    ]
    return Table(["method", "pair", "seed", "precision", "top-1", "what differs"], rows)


def external_table(entries: Iterable[ExternalEntry]) -> Table:
    """Numbers measured with other code, by pair and method."""
    rows = [
        [
            each.method,
            each.pair,
            points(each.accuracy) + (f" ± {points(each.deviation)}" if each.deviation is not None else ""),
            each.metric,
            MISSING if each.seeds is None else str(each.seeds),
            "; ".join(each.differences),
            each.source,
            each.submitted_by,
        ]
        for each in sorted(entries, key=lambda each: (each.pair, each.method, each.accuracy, each.source))
    ]
    heads = ["method", "pair", "top-1", "epoch", "seeds", "differs from the recipe in", "source", "submitted by"]
    return Table(heads, rows)
