"""The printed numbers beside our own: all of the ledger that boards and pages use.

What the rows, the protocols and the conflicts are stands in `ledger.py`, `protocols.py` and `conflicts.py`.
"""

from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from statistics import mean

from cakdbench.published.conflicts import Conflict, conflicts
from cakdbench.published.ledger import (
    Average,
    Printed,
    Source,
    ablations,
    accuracies,
    averages,
    costs,
    other_tasks,
    sources,
)
from cakdbench.published.protocols import Protocol, protocol_differences, protocol_of, protocols
from cakdbench.utils.errors import unknown

__all__ = [
    "Average",
    "CellKey",
    "Conflict",
    "Printed",
    "Protocol",
    "Source",
    "ablations",
    "accuracies",
    "averages",
    "conflicts",
    "costs",
    "other_tasks",
    "printed_cells",
    "protocol_differences",
    "protocol_of",
    "protocols",
    "recomputed",
    "recomputes",
    "shared",
    "sources",
]

SCRATCH = "scratch"
CellKey = tuple[str, str, str, str]
"""Teacher, student, dataset, method."""


@cache
def printed_cells(protocol: str, metric: str = "top1") -> dict[CellKey, tuple[Printed, ...]]:
    """Return the printed accuracies of a family of protocols, by cell, in the order of the sources.

    What one source prints in several tables is there once, as the row with the least to remark; what it prints
    differently, and what different sources print, equal or not, is all there.

    Raises:
        UsageError: unknown family.
    """
    rows = [row for row in accuracies() if row.protocol == protocol]
    if not rows:
        raise unknown("family of protocols", protocol, {row.protocol for row in accuracies()})
    cells: dict[CellKey, list[Printed]] = {}
    order = list(sources())
    for row in sorted((row for row in rows if row.metric == metric), key=lambda row: order.index(row.source)):
        cells.setdefault((row.teacher, row.student, row.dataset, row.method), []).append(row)
    return {key: tuple(_merged(found)) for key, found in cells.items()}


def recomputed(average: Average) -> Decimal:
    """The mean gain over the scratch student that the pairs of the average's table (or the one it repeats) give."""
    source, _, table = average.repeats.partition(" ") if average.repeats else (average.source, "", average.table)
    rows = [row for row in accuracies() if (row.source, row.table) == (source, table)]
    values = {(row.teacher, row.student, row.method): Decimal(row.value) for row in rows}
    return mean(
        value - values[teacher, student, SCRATCH]
        for (teacher, student, method), value in values.items()
        if method == average.method
    )


def recomputes(average: Average) -> bool:
    """Whether the printed average is within 0.01 of the recomputed one."""
    return abs(recomputed(average) - Decimal(average.value)) <= Decimal("0.01")


def shared(one: str, other: str) -> tuple[int, int]:
    """How many accuracies two sources both print, and in how many of them no number of the one is the other's."""
    first, second = _values(one), _values(other)
    both = first.keys() & second.keys()
    return len(both), sum(first[key].isdisjoint(second[key]) for key in both)


def _values(source: str) -> dict[tuple[str, ...], set[Decimal]]:
    found: dict[tuple[str, ...], set[Decimal]] = {}
    for row in accuracies():
        if row.source == source:
            key = (row.protocol, row.dataset, row.teacher, row.student, row.method, row.metric)
            found.setdefault(key, set()).add(Decimal(row.value))
    return found


def _merged(rows: list[Printed]) -> Iterator[Printed]:
    same: dict[tuple[str, Decimal], list[Printed]] = {}
    for row in rows:
        same.setdefault((row.source, Decimal(row.value)), []).append(row)
    return (min(found, key=lambda row: len(row.note)) for found in same.values())
