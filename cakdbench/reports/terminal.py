"""A board as tables for the terminal."""

from collections.abc import Iterator

import pandas as pd
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from cakdbench.reports.board import BREAK, Board, Cell, Section, value_spans
from cakdbench.reports.text import blocks, is_list

STYLES = {"best": "bold", "printed": "italic", "emphasis": "italic"}
BORDER = 3
"""What a column needs beside its text: a space on both sides, and a line."""


def board_terminal(board: Board, width: int) -> Iterator[Text | Table]:
    """Yield what a console prints: the brief sections of a board, and the names of the others."""
    yield Text(board.title, style="bold")
    brief = [section for section in board.sections if section.brief]
    if not any(section.interactive for section in brief):
        yield Text("no standard run yet")
    for section in brief:
        yield from _section(section, width)
    others = [section.name for section in board.sections if section not in brief]
    yield Text(f"on the page: {', '.join(others)}", style="dim")


def _section(section: Section, width: int) -> Iterator[Text | Table]:
    yield Text(section.name, style="underline")
    yield from map(_note, section.notes)
    if section.frame is not None:
        frames = _pieces(section.frame, width) if section.interactive else [section.frame]
        yield from map(_table, frames)
    yield from map(_note, section.footer)


def _pieces(frame: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """Yield parts of a table that fit the width, each with the first column."""
    widths = []
    for place, head in enumerate(frame.columns):
        texts = [_head(head), *map(_text, frame.iloc[:, place])]
        widths.append(BORDER + max(cell_len(line) for text in texts for line in text.plain.split(BREAK)))
    places: list[int] = []
    for place in range(1, frame.shape[1]):
        if places and 1 + widths[0] + sum(widths[p] for p in places) + widths[place] > width:
            yield frame.iloc[:, [0, *places]]
            places = []
        places.append(place)
    yield frame.iloc[:, [0, *places]]


def _table(frame: pd.DataFrame) -> Table:
    table = Table()
    for head in frame.columns:
        table.add_column(_head(head), overflow="fold")
    for row in frame.itertuples(index=False):
        alone = isinstance(row[0], Cell) and row[0].emphasis
        table.add_row(*map(_text, row), end_section=alone)
    return table


def _head(head: str) -> Text:
    return Text(head.replace(" → ", "\n→ "))


def _text(value: Cell | str | float | None) -> Text:
    return Text().join(
        Text(f"`{span.text}`" if span.style == "code" else span.text, STYLES.get(span.style, ""))
        for span in value_spans(value)
    )


def _note(note: str) -> Text:
    bullet = "- " if is_list(note) else ""
    return Text(BREAK.join(bullet + "".join(part.text for part in item) for item in blocks(note)))
