"""The view model of every page: a board is sections, a section a table with notes.

`sections` makes boards of records; markdown, html, latex, csv and terminal format them and know of nothing else, so
that what stands in one format stands in all.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from cakdbench.reports.text import MISSING, Span, number_text, points

BREAK = "\n"
"""Starts a new line inside a cell."""
PLOTS = "plots"
"""Folder of the pictures, beside the pages."""


RUN_HEADS = ("seed", "accuracy", "gain", "optimistic", "EMA", "status", "device", "time s")
PRINTED_HEADS = ("accuracy", "source", "table", "as", "remark", "reference")


@dataclass(frozen=True)
class Detail:
    """What is told of a cell on request, in formats that can: its runs, the printed values, and how to measure it."""

    title: str
    notes: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    printed: tuple[tuple[str, ...], ...]
    command: str | None


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its numbers, and the text where the numbers alone do not say it.

    Attributes:
        text: is written instead of `measured`, `sd` and `gain`. code: an id beside the text.
        measured: in percent; in a column of averages, ranks or counts such a number.
        sd, gain: in points.
        seeds: how many were measured; `uneven` where the cells of a row differ in it, which a reader has to see.
        printed: what papers print, each with the letters of its sources.
        best: cannot be told apart from the best of its column.
        kind: of a row's first cell: what the method transfers.
    """

    text: str = ""
    code: str = ""
    emphasis: bool = False
    measured: float | None = None
    sd: float | None = None
    gain: float | None = None
    seeds: int | None = None
    uneven: bool = False
    marks: tuple[str, ...] = ()
    printed: tuple[tuple[str, str], ...] = ()
    best: bool = False
    kind: str = ""
    detail: Detail | None = field(default=None, compare=False)

    def spans(self) -> list[Span]:
        """Return the parts in order, with the spaces between them: what was measured, and below it what is printed."""
        parts = self._measured()
        spans = [span for part in parts for span in (Span(" "), part)][1:]
        if self.printed:
            # Where nothing was measured a line of its own would double the height of a table of printed values.
            spans += [Span(" ") if parts[0].text == MISSING else Span(BREAK, "break")] if parts else []
            spans.append(Span(", ".join(f"{value} {sources}" for value, sources in self.printed), "printed"))
        return spans

    def _measured(self) -> list[Span]:
        if self.text or self.measured is None:
            spans = [Span(self.text, "emphasis" if self.emphasis else "plain")] if self.text else []
        else:
            sd = "" if self.sd is None else f" ± {points(self.sd)}"
            spans = [Span(points(self.measured) + sd, "best" if self.best else "accuracy")]
        spans += [Span(self.code, "code")] if self.code else []
        spans += [] if self.gain is None or self.text else [Span(f"({points(self.gain, signed=True)})", "gain")]
        spans += [Span(f"n={self.seeds}")] if self.uneven else []
        return spans + [Span(mark) for mark in self.marks]

    def __str__(self) -> str:
        """Return the cell as plain text."""
        return "".join(span.text for span in self.spans())


def value_spans(value: Cell | str | float | None) -> list[Span]:
    """Return the parts of any value of a frame; in text, what stands in backticks is code."""
    if isinstance(value, Cell):
        return value.spans()
    spans = []
    for number, line in enumerate(number_text(value).split(BREAK)):
        spans += [Span(BREAK, "break")] * bool(number)
        parts = re.split(r"`([^`]+)`", line)
        spans += [Span(text, "code" if place % 2 else "plain") for place, text in enumerate(parts) if text]
    return spans


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell | str | float | None]]) -> pd.DataFrame:
    """Return the frame of a section; whole numbers stay whole beside missing ones."""
    return pd.DataFrame([list(row) for row in rows], columns=list(heads), dtype=object)


@dataclass(frozen=True)
class Plot:
    """A picture of a board.

    Attributes:
        name: of its file.
        caption: how to read it. alt: what it shows, in words.
        digest: of the numbers, the same as `plot_digest` of what `draw` returns.
        draw: makes the SVG.
    """

    name: str
    caption: str
    alt: str
    digest: str
    draw: Callable[[], str]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page: heading, notes, a table, notes below it, commands, pictures; any of them may be left out.

    Notes are paragraphs or lists in a subset of markdown: `- ` items, `code`, *italics*, **bold**, [links](url).
    Text of others in them has to be escaped by `text.plain`; cells, titles, captions and code are plain text.

    Attributes:
        label: what it goes by where the title is not enough, or there is none.
        frame: cells are `Cell`, text (what stands in backticks is code), or numbers, which go to the right.
        caption: lets the table stand alone, for formats that put captions at tables.
        code: shell commands.
        folded: most readers do not need it.
        interactive: readers may sort and filter the table, and ask for the details of its cells.
        brief: belongs to what a terminal shows; it names the others.
    """

    title: str = ""
    level: int = 2
    label: str = ""
    notes: tuple[str, ...] = ()
    frame: pd.DataFrame | None = None
    caption: str = ""
    footer: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    folded: bool = False
    interactive: bool = False
    brief: bool = False

    @property
    def name(self) -> str:
        """Return what tells the section from the others of its board."""
        return self.label or self.title


@dataclass(frozen=True, eq=False)
class Board:
    """A page; `name` is that of its files."""

    name: str
    title: str
    sections: tuple[Section, ...]
