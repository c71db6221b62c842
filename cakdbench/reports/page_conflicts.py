"""The page `leaderboards/conflicts.md`: where printed numbers disagree, and how the boards read them."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import get_args

from tabulate import tabulate

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

HEAD = """\
# Where the printed numbers disagree

*Made from `leaderboards/published/`; changes by hand are overwritten.*

Numbers that papers of the field print, read from five texts, against each other, against the sentences around them, and
against the settings that were released. Accuracies are top-1 in percent, differences in points. Boards show every value
with the letter of its source; where one has to be taken, the last column says which."""
SWAPPED = """\
TAS Table 7 and FBT appendix Table 1 are one table, and its two dataset headers are swapped (5.1). Below they are put
right: what the papers print, over what the table prints it; what OFA's released files have; what OFA's author posted of
his own runs. A dot marks a setting on which they differ."""
NOTHING = "–"


def conflicts_markdown() -> str:
    """The page; equal ledgers give equal bytes."""
    parts = [HEAD, "## Sources", _source_table(), "## How much was compared", *_compared()]
    parts += ["## 1. One cell, two sources", _cell_table("sources")]
    parts += ["## 2. One cell, two places of one source", _cell_table("places")]
    parts += ["## 3. Sentences against tables", _claim_table()]
    parts += ["## 4. Averages that do not recompute", *_averages()]
    parts += ["## 5. Settings", SWAPPED, *_settings(), "### What remains", _cell_table("settings")]
    parts += ["## 6. Damaged places", "Places that the text that was read does not give whole.", _cell_table("damaged")]
    parts += ["## 7. Odd, but no contradiction", _cell_table("odd")]
    return "\n\n".join(parts) + "\n"


def _source_table() -> str:
    rows = [
        [source.mark, f"`{key}`", _citation(source), source.url, _repetitions(source)]
        for key, source in sources().items()
    ]
    return _table(["", "key", "source", "where", "trainings behind a number"], rows)


def _citation(source: Source) -> str:
    return f"{source.citation} {source.venue}, {source.year}. {source.notes}"


def _repetitions(source: Source) -> str:
    if source.repetitions is None:
        return "not stated"
    which = f" ({', '.join(source.repeated)} only)" if source.repeated else ""
    return f"{source.repetitions}{which}"


def _compared() -> Iterator[str]:
    yield (
        f"{len(accuracies())} printed accuracies. Two sources disagree on a cell (dataset, teacher, student, method, "
        "metric) if no number of the one is a number of the other:"
    )
    rows = [
        [f"`{one}`, `{other}`", *map(str, counts)]
        for one, other in combinations(sources(), 2)
        if (counts := shared(one, other))[0]
    ]
    yield _table(["sources", "cells of both", "disagree"], rows)


def _cell_table(kind: str) -> str:
    found = [each for each in conflicts() if each.kind == kind]
    heads = ["", "what", "dataset", "printed", "remark", "the boards use"]
    rows = [[each.id, each.subject, _datasets(each), _values(each), each.remark, each.reading] for each in found]
    return _table(*_without_empty(heads, rows))


def _claim_table() -> str:
    rows = [
        [each.id, each.subject, each.claim, each.remark, each.reading] for each in conflicts() if each.kind == "claim"
    ]
    return _table(["", "what", "the text says", "the tables", "verdict"], rows)


def _averages() -> Iterator[str]:
    whole = [average for average in averages() if not average.repeats]
    wrong = [average for average in whole if not recomputes(average)]
    yield (
        f"Of {len(whole)} printed averages {len(whole) - len(wrong)} are within 0.01 of the mean of (method - scratch) "
        f"over the pairs of their table. {len(averages()) - len(whole)} more are repeated by the summary beside a part "
        "of the pairs. These are not:"
    )
    found = {(cell.source, cell.table, cell.method): each for each, cell in _average_cells()}
    rows = []
    for average in wrong:
        each = found[average.source, average.table, average.method]
        place = f"{sources()[average.source].mark} {average.table}, {average.printed_as}"
        rows.append([each.id, place, average.pairs, average.value, f"{recomputed(average):.4f}", each.remark])
    yield _table(["", "what", "pairs", "printed", "recomputed", "remark"], sorted(rows))


def _average_cells() -> Iterator[tuple[Conflict, Cell]]:
    for each in conflicts():
        if each.kind == "average":
            yield from ((each, cell) for cell in each.cells)


def _settings() -> Iterator[str]:
    for protocol in protocols().values():
        if protocol.printed_under:
            yield f"### {protocol.dataset}, {'/'.join(protocol.kinds)} students"
            yield f'Printed under "{protocol.printed_under}". {_one_line(protocol.notes)}'
            yield _setting_table(protocol)


def _setting_table(protocol: Protocol) -> str:
    conflicting = protocol.conflicting()
    heads = ["setting", *get_args(By), ""]
    rows = [
        [key, *(setting_text(said[by]) if by in said else "" for by in get_args(By)), "•" if key in conflicting else ""]
        for key, said in sorted(protocol.stated().items())
    ]
    return _table(heads, rows)


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


def _without_empty(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [number for number in range(len(heads)) if any(row[number] for row in rows)]
    return [heads[number] for number in kept], [[row[number] or NOTHING for number in kept] for row in rows]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_one_line(cell).replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    return tabulate(cells, heads, tablefmt="pipe", disable_numparse=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())
