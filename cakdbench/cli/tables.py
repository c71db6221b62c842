"""Tables of the command line, with full names on a terminal of any width and in a pipe; and the same rows as JSON."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import IO, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from cakdbench.utils.text import printable

Rows = Sequence[Mapping[str, Any]]
"""A mapping from column to value for each row; None for no value."""
BORDER = 3
"""What a column needs beside its text: a space on both sides, and a line."""
WORD = 16
"""Prose has at least this width, or that of its longest word; longer words, as addresses, are folded."""
IN_A_PIPE = 100_000
MANY = 1000
"""Rows above which a table takes longer to draw than anybody reads it."""


class Layout(StrEnum):
    table = "table"
    json = "json"


AsFormat = Annotated[Layout, typer.Option("--format", help="A table for readers, or JSON for programs.")]


class SafeConsole(Console):
    """A console that shows no control characters, wherever a text comes from, and outlives its terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.quiet = True  # a terminal that was closed: SIGHUP, which is on its way, ends the run, and saves it
            _write_nowhere(self.file)


def _write_nowhere(file: IO[str]) -> None:
    """Let what a stream still holds go: it would fail again where the process ends, and change its exit code."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())


def make_console(**options: Any) -> Console:
    """Return a console whose lines are as long as they have to be where no terminal bounds them."""
    console = SafeConsole(**options)
    if not console.is_terminal:
        console.width = IN_A_PIPE
    return console


class Listing:
    """Rows for `console.print`: names are never cut, prose wraps, and columns give way by rank, the last first.

    A column without any value is left out.

    Args:
        prose: the columns that wrap; all others hold names and numbers.
        right: columns of numbers.
        sections: a line is drawn where the value of the first column changes.
    """

    def __init__(
        self, rows: Rows, prose: Iterable[str] = (), right: Iterable[str] = (), title: str = "", sections: bool = False
    ):
        self.rows = rows
        self.prose = {*prose}
        self.right = {*right}
        self.title = title
        self.sections = sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        table, left_out = self._table(), []
        while len(table.columns) > 1 and _needed(table, console) > options.max_width:
            left_out.append(str(table.columns.pop().header))
        if self.title:
            yield Text(self.title, "italic")
        table.columns[0].no_wrap = _needed(table, console) <= options.max_width
        yield table
        if left_out:
            yield Text(f"no room for: {', '.join(reversed(left_out))} (a pipe has them)", "dim")

    def _table(self) -> Table:
        every = dict.fromkeys(name for row in self.rows for name in row)
        names = [name for name in every if any(row.get(name) is not None for row in self.rows)]
        table = Table()
        for name in names or ["nothing"]:
            justify: JustifyMethod = "right" if name in self.right else "left"
            table.add_column(name, no_wrap=name not in self.prose, overflow="fold", justify=justify)
        for row, following in zip(self.rows, [*self.rows[1:], None]):
            ends = self.sections and following is not None and row[names[0]] != following[names[0]]
            table.add_row(*(_text(row.get(name)) for name in names), end_section=ends)
        return table


def print_rows(console: Console, listing: Listing, layout: Layout = Layout.table) -> None:
    """Print a listing as a table or as a JSON list of objects; thousands of rows without lines between them."""
    if layout is Layout.table and len(listing.rows) > MANY:
        console.file.write(_plain(listing))
    elif layout is Layout.table:
        console.print(listing)
    else:
        print(printable(json.dumps(listing.rows, indent=1, ensure_ascii=False, default=str)))


def _plain(listing: Listing) -> str:
    """Return rows as lines, which takes a hundredth of the time of a table."""
    every = dict.fromkeys(name for row in listing.rows for name in row)
    names = [name for name in every if any(row.get(name) is not None for row in listing.rows)]
    lines = [names, *([str(_text(row.get(name))) for name in names] for row in listing.rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = [str.rjust if name in listing.right else str.ljust for name in names]
    return "".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths)).rstrip() + "\n"
        for line in lines
    )


def _needed(table: Table, console: Console) -> int:
    """Return the width a table needs to cut no name."""
    return 1 + sum(BORDER + _width(column, console) for column in table.columns)


def _width(column: Column, console: Console) -> int:
    cells = [Measurement.get(console, console.options.update(width=IN_A_PIPE), cell) for cell in column.cells]
    head = len(str(column.header))
    if column.no_wrap:
        return max([head, *(cell.maximum for cell in cells)])
    return min(WORD, max([head, *(cell.minimum for cell in cells)]))


def _text(value: Any) -> Text:
    """Return a value for readers, without control characters: whole numbers in groups of three digits."""
    match value:
        case Text():
            text = value.copy()
            text.plain = printable(value.plain)
            return text
        case None:
            return Text("")
        case int() if abs(value) >= 10_000:
            return Text(f"{value:,}")
        case float():
            return Text(f"{value:g}")
        case list() | tuple():
            return Text(printable(", ".join(map(str, value))))
        case _:
            return Text(printable(str(value)))
