"""A board as one HTML file that needs nothing else: no network, no other file. Equal boards and plots give equal bytes.

The table can be read without scripts; a script sorts it, filters it and opens the details of a cell. All text of
records and papers is escaped, and the page's own policy lets no other script run and nothing be loaded.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files

from cakdbench.method import KINDS
from cakdbench.reports import tables
from cakdbench.reports.board import Block, Board
from cakdbench.reports.hypertext import attributes, bullets, rich, table_html
from cakdbench.reports.markdown import HOW_TO_READ, NOTES
from cakdbench.reports.page_table import (
    NOT_INSTALLED,
    PRINTED_HEADS,
    RUN_HEADS,
    details,
    kind_of,
    main_table,
    pair_name,
)
from cakdbench.reports.plots import block_plots
from cakdbench.reports.printed import protocol_lines, source_lines
from cakdbench.reports.text import MARKS, MISSING, REFUSED, commands, score_marks

USE = (
    "Press a column's head to sort by it; press a cell for its seeds, its conditions, what papers print, and the "
    "command that measures it. Green: the best of a pair and what cannot be told apart from it."
)
VIEWS = {"both": "accuracy and gain", "accuracies": "accuracy", "gains": "gain"}


def board_html(board: Board, plots: Mapping[str, str]) -> str:
    """The page of a board.

    Args:
        plots: SVG by name, as in `board_plots`; those that are not given are left out.
    """
    template = files("cakdbench.reports").joinpath("templates/board.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", template, re.DOTALL)[1]
    parts = {
        "title": escape(board.title),
        "script_hash": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        "body": "\n".join(_body(board, plots)),
        "data": _data(board),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _data(board: Board) -> str:
    """What the script knows, as JSON that cannot end its element."""
    cells = {
        key: cell
        for number, block in enumerate(board.blocks)
        for key, cell in details(block, number, board.statuses).items()
    }
    content = {"cells": cells, "run_heads": RUN_HEADS, "printed_heads": PRINTED_HEADS}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _body(board: Board, plots: Mapping[str, str]) -> Iterator[str]:
    yield f"<h1>{escape(board.title)}</h1>"
    yield f"<p>{rich(HOW_TO_READ)}</p>"
    yield f"<p>{USE}</p>"
    yield _filters(board)
    for number, block in enumerate(board.blocks):
        yield from _block(board, block, number, plots)
    yield f"<section><h2>Notes</h2>{bullets(NOTES)}</section>"
    if board.missing:
        yield _folded(f"Not measured yet: {len(board.missing)} runs", *map(_copyable, commands(board.missing)))
    if board.aside:
        yield _folded("Runs with changed settings (not comparable)", table_html(tables.aside_table(board.aside)))
    if board.other_recipes:
        counts = ", ".join(f"{escape(name)} ({count})" for name, count in board.other_recipes.items())
        yield f"<p>Runs of these pairs under other recipes, not shown here: {counts}.</p>"


def _filters(board: Board) -> str:
    kinds = {kind_of(row) for block in board.blocks for row in block.rows}
    pairs = dict.fromkeys(pair_name(column) for block in board.blocks for column in block.columns)
    views = (_choice("radio", "view", value, text, value == "both") for value, text in VIEWS.items())
    return (
        '<form id="filters" class="filters" autocomplete="off">'
        '<label>Method <input type="search" id="search" name="search" placeholder="name contains"></label>'
        f'<div class="group" role="group" aria-label="Show">{"".join(views)}</div>'
        f"<div class='group'>{_choice('checkbox', 'printed', '', 'printed values', True)}"
        f"{_choice('checkbox', 'measured', '', 'measured only', False)}</div>"
        '<button type="button" class="plain" id="start-over">Reset</button>'
        f"{_choices('Kinds of method', 'kind', [k for k in (*KINDS, NOT_INSTALLED) if k in kinds])}"
        f"{_choices('Pairs', 'pair', pairs)}</form>"
    )


def _choices(title: str, name: str, values: Iterable[str]) -> str:
    boxes = "".join(_choice("checkbox", name, value, value, True) for value in values)
    ticks = "".join(
        f'<button type="button" class="plain" data-tick="{what}">{what}</button>' for what in ("all", "none")
    )
    group = f'<div class="group" role="group"{attributes(aria_label=title)}>{boxes}{ticks}</div>'
    return f"<details><summary>{title}</summary>{group}</details>"


def _choice(type: str, name: str, value: str, text: str, checked: bool) -> str:
    mark = " checked" if checked else ""
    return f"<label><input{attributes(type=type, name=name, value=value)}{mark}> {escape(text)}</label>"


def _block(board: Board, block: Block, number: int, plots: Mapping[str, str]) -> Iterator[str]:
    yield f"<section><h2>{escape(board.heading(block) or 'Results')}</h2>"
    yield '<p class="count soft" role="status"></p>'
    yield main_table(block, number)
    yield _legend(block)
    for place, plot in enumerate(block_plots(board, block)):
        if plot.name in plots:
            yield f'<figure><div class="picture" tabindex="0">{_inline(plots[plot.name], f"p{number}{place}-")}</div>'
            yield f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    yield from _conditions(board, block)
    yield "</section>"


def _conditions(board: Board, block: Block) -> Iterator[str]:
    if any(column.printed for column in block.columns):
        parts = (bullets("\n".join(lines(block))) for lines in (source_lines, protocol_lines))
        yield _folded("How the printed numbers were made", *parts)
    records = [record for column in block.columns for record in column.records]
    if not records:
        return
    yield _folded("How sure is a difference?", table_html(tables.certainty_table(block)))
    optimistic = tables.side_table(block, lambda record: record.result.optimistic_top1)
    yield _folded("Optimistic numbers (best epoch on the test set)", table_html(optimistic))
    if any(record.result.ema_top1 is not None for record in records):
        averaged = tables.side_table(block, lambda record: record.result.ema_top1)
        yield _folded("Averaged weights (EMA, last epoch)", table_html(averaged))
    versions = f"<p>Precision: {block.precision}. Versions: {escape('; '.join(tables.versions(records)))}.</p>"
    yield _folded("Conditions", table_html(tables.protocol_table(block)), versions)
    runs = table_html(tables.runs_table(block, board.statuses))
    yield _folded("Devices, speed and parameters of the runs", runs)


def _legend(block: Block) -> str:
    scores = [score for row in block.rows for score in row.scores]
    used = {mark for score in scores for mark in score_marks(score)}
    lines = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(not score.records and score.refusal is None for score in scores):
        lines.append(f"{MISSING} not measured yet")
    if any(score.refusal is not None and row.installed for row in block.rows for score in row.scores):
        lines.append(f"{REFUSED} the method refuses the pair; the cell says why")
    return f'<p class="soft">{"<br>".join(map(escape, lines))}</p>' if lines else ""


def _folded(title: str, *parts: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def _copyable(command: str) -> str:
    text = escape(command)
    return f'<pre><code>{text}</code></pre><button type="button" class="plain copy" data-copy="{text}">Copy</button>'


def _inline(svg: str, prefix: str) -> str:
    """An SVG as part of the page: its ids made unique."""

    def renamed(tag: re.Match) -> str:
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", tag[0])

    return re.sub(r"<[^>]*>", renamed, svg[svg.index("<svg") :])
