"""The page `leaderboards/conflicts.md`: where printed numbers disagree, and how the boards read them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import get_args

import pandas as pd

from cakdbench.published.compare import (
    Source,
    accuracies,
    averages,
    conflicts,
    protocols,
    recomputed,
    recomputes,
    shared,
    sources,
)
from cakdbench.published.conflicts import Cell, Conflict
from cakdbench.published.protocols import By, Protocol, setting_text
from cakdbench.reports.board import Board, Section, table
from cakdbench.reports.text import MISSING

HEAD = (
    "*Made from `leaderboards/published/`; changes by hand are overwritten.*",
    """\
Numbers that papers of the field print, read from five texts, against each other, against the sentences around them, and
against the settings that were released. Accuracies are top-1 in percent, differences in points. Boards show every value
with the letter of its source; where one has to be taken, the last column says which.""",
)
SWAPPED = """\
TAS Table 7 and FBT appendix Table 1 are one table, and its two dataset headers are swapped (5.1). Below they are put
right: what the papers print, over what the table prints it; what OFA's released files have; what OFA's author posted of
his own runs. A dot marks a setting on which they differ."""


def conflicts_board() -> Board:
    """Return the page; equal ledgers give equal pages."""
    return Board("conflicts", "Where the printed numbers disagree", tuple(_sections()))


def _sections() -> Iterator[Section]:
    yield Section(label="About", notes=HEAD)
    yield Section("Sources", frame=_source_table())
    yield Section("How much was compared", notes=(_count(),), frame=_overlap_table())
    yield Section("1. One cell, two sources", frame=_cell_table("sources"))
    yield Section("2. One cell, two places of one source", frame=_cell_table("places"))
    yield Section("3. Sentences against tables", frame=_claim_table())
    yield Section("4. Averages that do not recompute", notes=(_average_count(),), frame=_average_table())
    yield Section("5. Settings", notes=(SWAPPED,))
    yield from map(_protocol, (protocol for protocol in protocols().values() if protocol.printed_under))
    yield Section("What remains", 3, frame=_cell_table("settings"))
    damaged = "Places that the text that was read does not give whole."
    yield Section("6. Damaged places", notes=(damaged,), frame=_cell_table("damaged"))
    yield Section("7. Odd, but no contradiction", frame=_cell_table("odd"))


def _source_table() -> pd.DataFrame:
    rows = [
        [source.mark, f"`{key}`", _one_line(_citation(source)), source.url, _repetitions(source)]
        for key, source in sources().items()
    ]
    return table(["", "key", "source", "where", "trainings behind a number"], rows)


def _citation(source: Source) -> str:
    return f"{source.citation} {source.venue}, {source.year}. {source.notes}"


def _repetitions(source: Source) -> str:
    if source.repetitions is None:
        return "not stated"
    which = f" ({', '.join(source.repeated)} only)" if source.repeated else ""
    return f"{source.repetitions}{which}"


def _count() -> str:
    return (
        f"{len(accuracies())} printed accuracies. Two sources disagree on a cell (dataset, teacher, student, method, "
        "metric) if no number of the one is a number of the other:"
    )


def _overlap_table() -> pd.DataFrame:
    rows = []
    for one, other in combinations(sources(), 2):
        both, differing = shared(one, other)
        if both:
            rows.append([f"`{one}`, `{other}`", str(both), str(differing)])
    return table(["sources", "cells of both", "disagree"], rows)


def _cell_table(kind: str) -> pd.DataFrame:
    """Return the conflicts of a kind; columns in which none has anything are left out."""
    heads = ["", "what", "dataset", "printed", "remark", "the boards use"]
    rows = [[c.id, c.subject, _datasets(c), _values(c), c.remark, c.reading] for c in conflicts() if c.kind == kind]
    frame = _text_table(heads, rows)
    return frame.loc[:, (frame != "").any()].replace("", MISSING)


def _claim_table() -> pd.DataFrame:
    rows = [[c.id, c.subject, c.claim, c.remark, c.reading] for c in conflicts() if c.kind == "claim"]
    return _text_table(["", "what", "the text says", "the tables", "verdict"], rows)


def _average_count() -> str:
    whole = [average for average in averages() if not average.repeats]
    right = sum(map(recomputes, whole))
    return (
        f"Of {len(whole)} printed averages {right} are within 0.01 of the mean of (method - scratch) "
        f"over the pairs of their table. {len(averages()) - len(whole)} more are repeated by the summary beside a part "
        "of the pairs. These are not:"
    )


def _average_table() -> pd.DataFrame:
    about = {(cell.source, cell.table, cell.method): conflict for conflict, cell in _average_cells()}
    rows = []
    for average in averages():
        if not average.repeats and not recomputes(average):
            conflict = about[average.source, average.table, average.method]
            place = f"{sources()[average.source].mark} {average.table}, {average.printed_as}"
            numbers = average.pairs, average.value, f"{recomputed(average):.4f}"
            rows.append([conflict.id, place, *numbers, conflict.remark])
    return _text_table(["", "what", "pairs", "printed", "recomputed", "remark"], sorted(rows))


def _average_cells() -> Iterator[tuple[Conflict, Cell]]:
    for conflict in conflicts():
        if conflict.kind == "average":
            yield from ((conflict, cell) for cell in conflict.cells)


def _protocol(protocol: Protocol) -> Section:
    title = f"{protocol.dataset}, {'/'.join(protocol.kinds)} students"
    note = f'Printed under "{protocol.printed_under}". {_one_line(protocol.notes)}'
    rows = []
    for key, said in sorted(protocol.stated().items()):
        texts = [setting_text(said[by]) if by in said else "" for by in get_args(By)]
        rows.append([key, *texts, "•" if key in protocol.conflicting() else ""])
    return Section(title, 3, notes=(note,), frame=table(["setting", *get_args(By), ""], rows))


def _datasets(conflict: Conflict) -> str:
    return ", ".join(dict.fromkeys(cell.dataset for cell in conflict.cells if cell.dataset))


def _values(conflict: Conflict) -> str:
    """The cells' values, each with where it is printed."""
    places: dict[str, list[str]] = {}
    for cell in conflict.cells:
        places.setdefault(_named(cell, conflict), []).append(_place(cell))
    return "; ".join(f"{value} ({', '.join(dict.fromkeys(where))})" for value, where in places.items())


def _named(cell: Cell, conflict: Conflict) -> str:
    """The value, with what the conflict's cells do not have in common."""
    asked = ["dataset", "teacher", "student", "method", "model", "setting", "metric"]
    differing = [key for key in asked if len({getattr(other, key) for other in conflict.cells}) > 1]
    names = [getattr(cell, key) for key in differing if getattr(cell, key)]
    return " ".join([*names, cell.value])


def _place(cell: Cell) -> str:
    return ", ".join(filter(None, [f"{sources()[cell.source].mark} {cell.table}", cell.mode, cell.panel]))


def _text_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> pd.DataFrame:
    return table(heads, ([_one_line(cell) for cell in row] for row in rows))


def _one_line(text: str) -> str:
    return " ".join(text.split())
