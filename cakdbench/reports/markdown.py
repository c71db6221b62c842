"""A board as a markdown page. Equal boards give equal bytes."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from tabulate import tabulate

from cakdbench.reports.board import PLOTS, Board, Cell, Section
from cakdbench.reports.text import REFUSED, Span, number_text, plain

STYLES = {"best": "**{}**", "printed": "*{}*", "emphasis": "*{}*", "code": "`{}`", "break": "<br>"}


def board_markdown(board: Board) -> str:
    """Return the page `<name>.md`."""
    parts = [f"# {plain(board.title)}"]
    for section in board.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    if section.folded:
        yield f"<details><summary>{plain(section.title)}</summary>"
    elif section.title:
        yield f"{'#' * section.level} {plain(section.title)}"
    yield from section.notes
    if section.frame is not None:
        yield frame_markdown(section.frame)
    yield from section.footer
    if section.code:
        yield "\n".join(["```sh", *section.code, "```"])
    yield from (f"![{plain(plot.caption)}]({PLOTS}/{plot.name})" for plot in section.plots)
    if section.folded:
        yield "</details>"


def frame_markdown(frame: pd.DataFrame) -> str:
    """Return a table: columns of numbers to the right, all others to the left."""
    heads = [plain(str(head)) for head in frame.columns]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    is_text = frame.map(lambda value: isinstance(value, str | Cell) and value != REFUSED)
    sides = ["left" if text else "right" for text in is_text.to_numpy().any(axis=0)]
    return tabulate(rows, heads, "pipe", disable_numparse=True, colalign=sides)


def _cell(value: Any) -> str:
    if not isinstance(value, Cell):
        return plain(number_text(value))
    return "".join(STYLES.get(span.style, "{}").format(_escaped(span)) for span in value.spans())


def _escaped(span: Span) -> str:
    """Return the text of a part; in code a bracket begins no link, and a backslash before it would be shown."""
    text = plain(span.text) or span.text
    return text.replace("\\[", "[") if span.style == "code" and "`" not in text else text
