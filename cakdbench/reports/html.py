"""A board as one HTML file that needs nothing else: no network, no other file. Equal boards give equal bytes.

The tables can be read without scripts; a script sorts and filters them and opens the details of a cell. Jinja escapes
all text, and the page's own policy lets no other script run and nothing be loaded.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.resources import files
from statistics import fmean
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cakdbench.method import KINDS
from cakdbench.reports.board import BREAK, PRINTED_HEADS, RUN_HEADS, Board, Cell, Plot, Section, value_spans
from cakdbench.reports.text import MISSING, blocks

BEST_IS_LEAST = {"rank"}
"""Columns of numbers that are sorted from the least at first."""


def board_html(board: Board) -> str:
    """Return the page of a board; its plots are drawn."""
    tables = {section.name: _interactive(section, number) for number, section in enumerate(board.sections)}
    rows = [row for made in tables.values() for row in made["above"] + made["rows"]]
    kinds = {row["kind"] for row in rows}
    script = Markup(_asset("board.js"))
    return (
        _environment()
        .get_template("board.html")
        .render(
            board=board,
            tables=tables,
            kinds=[*(kind for kind in KINDS if kind in kinds), *sorted(kinds - {*KINDS, ""})],
            pairs=list(
                dict.fromkeys(head["pair"] for made in tables.values() for head in made["heads"] if head["pair"])
            ),
            css=Markup(_asset("board.css")),
            script=script,
            script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
            data=_data(rows),
        )
    )


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("cakdbench.reports")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"spans": value_spans, "blocks": blocks, "drawn": _drawn, "merge": _merge}
    return environment


@functools.cache
def _asset(name: str) -> str:
    return files("cakdbench.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return first | second


def _data(rows: Iterable[dict[str, Any]]) -> Markup:
    """Return what the script knows, as JSON that cannot end its element."""
    cells = {cell["id"]: asdict(cell["value"].detail) for row in rows for cell in row["cells"] if cell["id"]}
    content = {"cells": cells, "run_heads": RUN_HEADS, "printed_heads": PRINTED_HEADS}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _drawn(plot: Plot) -> Markup:
    """Return a plot as part of the page: its ids made unique by its name."""
    prefix = re.sub(r"\W", "-", plot.name)

    def renamed(tag: re.Match[str]) -> str:
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", tag[0])

    svg = plot.draw()
    return Markup(re.sub(r"<[^>]*>", renamed, svg[svg.index("<svg") :]))


def _interactive(section: Section, number: int) -> dict[str, Any]:
    """Return a table that can be sorted and filtered: its heads, the rows that stay above, and the others."""
    if not section.interactive:
        return {"heads": [], "above": [], "rows": []}
    frame = section.frame
    heads = [_head(head, frame.iloc[:, place]) for place, head in enumerate(frame.columns)]
    rows = [_row(row, heads, f"{number}.{place}") for place, row in enumerate(frame.itertuples(index=False))]
    above = [row for row in rows if row["head"].emphasis]
    return {"name": section.name, "heads": heads, "above": above, "rows": [row for row in rows if row not in above]}


def _head(head: str, column: pd.Series) -> dict[str, Any]:
    cells = [value for value in column if isinstance(value, Cell)]
    measurements = [cell for cell in cells if cell.detail]
    has_numbers = any(cell.measured is not None for cell in cells)
    key = "pair" if measurements else "number" if has_numbers else "text"
    return {
        "text": head,
        "key": key,
        "first": "ascending" if key == "text" or head in BEST_IS_LEAST else "descending",
        "pair": head.split(BREAK)[0] if measurements else None,
        "empty": "1" if measurements and all(cell.measured is None for cell in measurements) else None,
    }


def _row(row: tuple[Cell | str, ...], heads: list[dict[str, Any]], id: str) -> dict[str, Any]:
    first, *values = row
    cells = [_cell(value, head, f"{id}.{place}") for place, (value, head) in enumerate(zip(values, heads[1:]))]
    return {"head": first, "name": str(first).lower(), "title": first.text, "kind": first.kind, "cells": cells}


def _cell(value: Cell | str, head: dict[str, Any], id: str) -> dict[str, Any]:
    detail = isinstance(value, Cell) and value.detail
    return {
        "value": value,
        "id": id if detail else None,
        "best": detail and value.best,
        "data": dict(_sort_values(value, head)),
    }


def _sort_values(value: Cell | str, head: dict[str, Any]) -> Iterator[tuple[str, float | str | None]]:
    """Yield the attributes by which the script sorts and filters a cell."""
    if not isinstance(value, Cell):
        return
    if head["key"] != "pair":
        yield "data-value", value.text.replace(MISSING, "") if head["key"] == "text" else value.measured
        return
    yield from (("data-accuracy", value.measured), ("data-gain", value.gain))
    if value.printed:
        yield "data-printed", fmean(float(number) for number, _ in value.printed)
