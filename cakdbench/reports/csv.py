"""A board as CSV, one line a number, for scripts. Equal boards give equal text."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from cakdbench.reports.board import BREAK, Board, Cell, Section
from cakdbench.reports.text import blocks, number_text

COLUMNS = ("section", "row", "name", "column", "kind", "value", "sd", "gain", "n", "sources", "text")


def board_csv(board: Board) -> str:
    """Return all sections in long form.

    A line for each cell of a table (`kind` is cell) with its place, its numbers and the text that a page shows, and
    one for each printed value in it (printed). `row` counts from 1, `name` is the row's first cell. Notes, commands and
    plots are lines with a text alone.
    """
    lines = (line for section in board.sections for line in _lines(section))
    return pd.DataFrame(lines, columns=COLUMNS, dtype=object).to_csv(index=False, lineterminator="\n")


def _lines(section: Section) -> Iterator[dict[str, Any]]:
    place = {"section": section.name}
    yield from (place | {"kind": "note", "text": text} for note in section.notes for text in _texts(note))
    if section.frame is not None:
        for number, row in enumerate(section.frame.itertuples(index=False), 1):
            name = place | {"row": number, "name": number_text(row[0])}
            for column, value in zip(section.frame.columns, row, strict=True):
                yield from _cell(name | {"column": column.replace(BREAK, ", ")}, value)
    yield from (place | {"kind": "note", "text": text} for note in section.footer for text in _texts(note))
    yield from (place | {"kind": "command", "text": line} for line in section.code)
    yield from (place | {"kind": "plot", "name": plot.name, "text": plot.alt} for plot in section.plots)


def _cell(place: dict[str, Any], value: Cell | str | float | None) -> Iterator[dict[str, Any]]:
    line = place | {"kind": "cell", "text": number_text(value)}
    if not isinstance(value, Cell):
        yield line if isinstance(value, str) else line | {"value": value}
        return
    numbers = {"value": value.measured, "sd": value.sd, "gain": value.gain}
    rounded = {name: round(number, 6) + 0.0 for name, number in numbers.items() if number is not None}
    yield line | {"n": value.seeds} | rounded
    for number, sources in value.printed:
        yield place | {"kind": "printed", "value": number, "sources": sources}


def _texts(note: str) -> list[str]:
    return ["".join(part.text for part in item) for item in blocks(note)]
