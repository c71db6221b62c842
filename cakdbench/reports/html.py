"""A board as one HTML file that needs nothing else: no network, no other file. Equal boards give equal bytes.

The tables can be read without scripts; a script sorts and filters them and opens the details of a cell. Jinja escapes
all text, and the page's own policy lets no other script run and nothing be loaded.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cakdbench.method import KINDS
from cakdbench.reports.board import BREAK, PRINTED_HEADS, RUN_HEADS, Board, Cell, Plot, value_spans
from cakdbench.reports.text import MISSING, blocks, template

BEST_IS_LEAST = {"rank"}
"""Columns of numbers that are sorted from the least at first."""


def board_html(board: Board) -> str:
    """Return the page of a board; its plots are drawn."""
    shown = {number: section.frame for number, section in enumerate(board.sections) if section.interactive}
    frames = {number: frame for number, frame in shown.items() if frame is not None}
    heads = {
        number: [_head(head, frame.iloc[:, place]) for place, head in enumerate(frame.columns)]
        for number, frame in frames.items()
    }
    kinds = {cell.kind for frame in frames.values() for cell in frame.iloc[:, 0]} - {""}
    pairs = dict.fromkeys(head["pair"] for columns in heads.values() for head in columns if head["pair"])
    script = Markup(template("board.js"))
    page = _environment().get_template("board.html")
    return page.render(
        board=board,
        heads=heads,
        kinds=[*(kind for kind in KINDS if kind in kinds), *sorted(kinds - {*KINDS})],
        pairs=list(pairs),
        css=Markup(template("board.css")),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        data=_data(frames),
    )


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("cakdbench.reports")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"spans": value_spans, "blocks": blocks, "drawn": _drawn, "attributes": _attributes}
    return environment


def _data(frames: dict[int, pd.DataFrame]) -> Markup:
    """Return what the script knows, as JSON that cannot end its element: details by section, row and column."""
    cells: dict[str, Any] = {}
    for number, frame in frames.items():
        ordered = sorted(frame.itertuples(), key=lambda row: not row[1].emphasis)
        values = ((f"{number}.{row[0]}.{place}", cell) for row in ordered for place, cell in enumerate(row[2:]))
        cells |= {id: asdict(cell.detail) for id, cell in values if isinstance(cell, Cell) and cell.detail}
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


def _head(head: str, column: Iterable[Cell | str]) -> dict[str, Any]:
    """Return what a column shows, is sorted by and is filtered by; in one of pairs the cells have details."""
    cells = [value for value in column if isinstance(value, Cell)]
    is_pair, has_numbers = any(c.detail for c in cells), any(c.measured is not None for c in cells)
    key = "pair" if is_pair else "number" if has_numbers else "text"
    return {
        "text": head,
        "key": key,
        "first": "ascending" if key == "text" or head in BEST_IS_LEAST else "descending",
        "pair": head.split(BREAK)[0] if is_pair else None,
        "empty": "1" if is_pair and all(cell.measured is None for cell in cells if cell.detail) else None,
    }


def _attributes(value: Cell | str, key: str) -> dict[str, float | str | None]:
    """Return the attributes by which the script sorts, filters and opens a cell."""
    if not isinstance(value, Cell):
        return {}
    style = ("cell level" if value.best else "cell") if value.detail else None
    if key != "pair":
        return {"class": style, "data-value": value.text.replace(MISSING, "") if key == "text" else value.measured}
    printed = fmean(float(number) for number, _ in value.printed) if value.printed else None
    return {"class": style, "data-accuracy": value.measured, "data-gain": value.gain, "data-printed": printed}
