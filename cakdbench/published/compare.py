"""The printed numbers beside each other: what boards show of them, and whether they agree."""

from decimal import Decimal
from functools import cache
from statistics import mean

from cakdbench.published.ledger import Average, Printed, accuracies, sources
from cakdbench.utils.errors import unknown

SCRATCH = "scratch"
CellKey = tuple[str, str, str, str]
"""Teacher, student, dataset, method."""


@cache
def printed_cells(protocol: str, metric: str = "top1") -> dict[CellKey, tuple[Printed, ...]]:
    """Return the printed accuracies of a family of protocols, by cell, in the order of the sources.

    What one source prints in several tables is there once, as the row with the shortest note; what it prints
    differently, and what different sources print, equal or not, is all there.

    Raises:
        UsageError: unknown family.
    """
    rows = [row for row in accuracies() if row.protocol == protocol]
    if not rows:
        raise unknown("family of protocols", protocol, {row.protocol for row in accuracies()})
    cells: dict[CellKey, dict[tuple[str, float], Printed]] = {}
    order = list(sources())
    for row in sorted(rows, key=lambda row: order.index(row.source)):
        if row.metric == metric:
            values = cells.setdefault((row.teacher, row.student, row.dataset, row.method), {})
            same = values.setdefault((row.source, row.number), row)
            values[row.source, row.number] = min(same, row, key=lambda row: len(row.note))
    return {key: tuple(values.values()) for key, values in cells.items()}


def recomputed(average: Average) -> Decimal:
    """Return the mean gain over the scratch student on the pairs of the average's table, or of the one it repeats."""
    source, _, table = average.repeats.partition(" ") if average.repeats else (average.source, "", average.table)
    rows = [row for row in accuracies() if (row.source, row.table) == (source, table)]
    values = {(row.teacher, row.student, row.method): Decimal(row.value) for row in rows}
    return mean(
        value - values[teacher, student, SCRATCH]
        for (teacher, student, method), value in values.items()
        if method == average.method
    )


def recomputes(average: Average) -> bool:
    """Return True if the printed average is within 0.01 of the recomputed one."""
    return abs(recomputed(average) - Decimal(average.value)) <= Decimal("0.01")


def overlap(first: str, second: str) -> tuple[int, int]:
    """Return the number of accuracies that two sources both print, and of those they print no number in common for."""
    one, other = _values(first), _values(second)
    both = one.keys() & other.keys()
    return len(both), sum(one[key].isdisjoint(other[key]) for key in both)


def _values(source: str) -> dict[tuple[str, ...], set[float]]:
    values: dict[tuple[str, ...], set[float]] = {}
    for row in accuracies():
        if row.source == source:
            key = (row.protocol, row.dataset, row.teacher, row.student, row.method, row.metric)
            values.setdefault(key, set()).add(row.number)
    return values
