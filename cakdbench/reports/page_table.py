"""The sortable table of a block for the HTML page, and what is told of a cell on request."""

from collections.abc import Iterator, Mapping
from html import escape
from statistics import fmean
from typing import Any

from cakdbench.published.compare import Printed, sources
from cakdbench.records import Record
from cakdbench.registry import split_variant
from cakdbench.reports.board import TEACHER, Block, BlockColumn, Missing, Row, Score
from cakdbench.reports.hypertext import attributes, coded
from cakdbench.reports.printed import printed_average, printed_text
from cakdbench.reports.tables import NOT_SUBMITTED
from cakdbench.reports.text import (
    MARKS,
    MISSING,
    REFUSED,
    average_text,
    commands,
    pair_text,
    points,
    score_marks,
    seeds_text,
    teacher_text,
)
from cakdbench.utils.errors import UsageError

NOT_INSTALLED = "not installed"
"""The kind of a method that is known from papers alone."""
RUN_HEADS = ("seed", "accuracy", "gain", "optimistic", "EMA", "status", "device", "time s")
PRINTED_HEADS = ("accuracy", "source", "table", "as", "remark", "reference")
ENDINGS = (("average gain", "number", "descending"), ("rank", "number", "ascending"))
ENDINGS += (("group", "text", "ascending"), ("seeds", "number", "descending"))


def kind_of(row: Row) -> str:
    """What the method transfers."""
    try:
        return split_variant(row.label)[0].kind if row.installed else NOT_INSTALLED
    except UsageError:
        return NOT_INSTALLED


def main_table(block: Block, number: int) -> str:
    """The table of the block with that number."""
    label = attributes(aria_label=f"Results, {block.dataset}, {block.precision}")
    body = "".join(_row(row, block, f"{number}.{place}") for place, row in enumerate(block.rows))
    return (
        f'<div class="scroll" tabindex="0" role="region"{label}><table class="board">'
        f"<thead><tr>{''.join(_heads(block))}</tr></thead>"
        f"<tbody>{_teachers(block)}</tbody><tbody>{body}</tbody></table></div>"
    )


def _heads(block: Block) -> Iterator[str]:
    yield _head("method", "text", "ascending")
    for column in block.columns:
        name = pair_text(column.column, block, "\n")
        empty = None if column.records else "1"
        yield _head(name, "pair", "descending", class_="pair", data_pair=pair_name(column), data_empty=empty)
    for name, key, first in ENDINGS:
        yield _head(name, key, first)


def pair_name(column: BlockColumn) -> str:
    """What a pair goes by in the filter."""
    return f"{column.column.teacher} → {column.column.student}"


def _head(name: str, key: str, first: str, **values: object) -> str:
    facts = attributes(scope="col", aria_sort="none", data_key=key, data_first=first, **values)
    return f'<th{facts}><button type="button" class="sort">{coded(name)}</button></th>'


def _teachers(block: Block) -> str:
    cells = (_both(teacher_text(c), printed_text(c.printed.get(TEACHER, ()), c.column)) for c in block.columns)
    return (
        f'<tr><th scope="row">{TEACHER} alone</th>{"".join(f"<td>{cell}</td>" for cell in cells)}{"<td></td>" * 4}</tr>'
    )


def _both(measured: str, printed: str) -> str:
    """What was measured, and below it what is printed."""
    below = f'<span class="printed">{escape(printed.strip("*"))}</span>' if printed else ""
    return f"{escape(measured)} {below}"


def _row(row: Row, block: Block, id: str) -> str:
    known = row.title.lower() == row.label
    name = escape(row.title) + ("" if known else f" <small><code>{escape(row.label)}</code></small>")
    facts = attributes(data_name=f"{row.title} {row.label}".lower(), data_kind=kind_of(row))
    cells = "".join(_cell(row, place, block, f"{id}.{place}") for place in range(len(row.scores)))
    return f'<tr{facts}><th scope="row"{attributes(data_value=row.title)}>{name}</th>{cells}{_ending(row, block)}</tr>'


def _ending(row: Row, block: Block) -> str:
    rank, letters = block.standings.ranks.get(row.label), block.standings.letters.get(row.label, "")
    seeds = max((len(score.records) for score in row.scores), default=0)
    values = [
        (row.average_gain, _both(average_text(row), printed_average(row.label, block))),
        (rank, points(rank)),
        (letters, escape(letters) or MISSING),
        (seeds or None, escape(seeds_text(row))),
    ]
    return "".join(f"<td{attributes(data_value='' if value is None else value)}>{text}</td>" for value, text in values)


def _cell(row: Row, place: int, block: Block, id: str) -> str:
    score, level = row.scores[place], block.standings.level
    best = place < len(level) and row.label in level[place]
    facts = attributes(
        class_="cell level" if best else "cell",
        data_accuracy=score.mean,
        data_gain=score.gain,
        data_printed=fmean(each.number for each in score.printed) if score.printed else None,
    )
    printed = printed_text(score.printed, block.columns[place].column).strip("*")
    below = f' <span class="printed">{escape(printed)}</span>' if printed else ""
    return (
        f'<td{facts}><button type="button" class="open" data-cell="{id}">{_measured(score, row)}{below}</button></td>'
    )


def _measured(score: Score, row: Row) -> str:
    if not score.records:
        return f"<span>{MISSING if score.refusal is None else REFUSED}</span>"
    sd = "" if score.sd is None else f" <small>± {points(score.sd)}</small>"
    parts = [f'<span class="accuracy"><b>{points(score.mean)}</b>{sd}</span>']
    if score.gain is not None:
        sign = " minus" if score.gain < 0 else ""
        parts.append(f'<span class="gain{sign}">({points(score.gain, signed=True)})</span>')
    if len({len(other.records) for other in row.scores if other.records}) > 1:
        parts.append(f"<small>n={len(score.records)}</small>")
    return " ".join([*parts, *score_marks(score)])


def details(block: Block, number: int, statuses: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What is told of each cell, by the id it has in the table."""
    return {
        f"{number}.{position}.{place}": _detail(row, place, block, statuses)
        for position, row in enumerate(block.rows)
        for place in range(len(row.scores))
    }


def _detail(row: Row, place: int, block: Block, statuses: Mapping[str, str]) -> dict[str, Any]:
    score, column = row.scores[place], block.columns[place].column
    seeds = [seed for seed in block.seeds if seed not in score.seeds]
    runnable = row.installed and score.refusal is None
    missing = [Missing(row.label, column, seed, block.precision) for seed in seeds] if runnable else []
    return {
        "title": f"{row.title} on {pair_text(column, block, ', ')}",
        "notes": list(_notes(row, score)),
        "runs": [_run(record, score, statuses) for record in score.records],
        "printed": [_printed(each) for each in score.printed],
        "command": "\n".join(commands(missing)) or None,
    }


def _notes(row: Row, score: Score) -> Iterator[str]:
    yield from (f"{mark} {MARKS[mark]}" for mark in score_marks(score))
    if not row.installed:
        yield "There is no such method here: known from papers alone."
    elif score.refusal is not None:
        yield f"Refused: {score.refusal}"
    elif not score.records:
        yield "Not measured yet."


def _run(record: Record, score: Score, statuses: Mapping[str, str]) -> list[str]:
    result, seed = record.result, record.identity.seed
    numbers = (result.optimistic_top1, result.ema_top1)
    gain = points(score.gains.get(seed), signed=True)
    status = statuses.get(record.key, NOT_SUBMITTED)
    conditions = (status, record.conditions.device, f"{record.conditions.seconds:,.0f}")
    return [str(seed), points(result.top1), gain, *map(points, numbers), *conditions]


def _printed(each: Printed) -> list[str]:
    source = sources()[each.source]
    return [each.value, f"{source.mark}: {each.source}", each.table, each.printed_as, each.note, source.citation]
