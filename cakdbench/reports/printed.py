"""The printed numbers of a board: how they are written, their sources, and how their settings differ from ours."""

from collections.abc import Iterable

from cakdbench.models.zoo import model_kind
from cakdbench.published.compare import recomputes
from cakdbench.published.ledger import Printed, averages, sources
from cakdbench.published.protocols import Protocol, flat, protocol_differences, protocol_of, setting_text
from cakdbench.reports.blocks import TEACHER, Block, BlockColumn
from cakdbench.reports.standard import Column
from cakdbench.reports.text import bullets, plain

OTHER_SETTINGS = "°"
"""Marks a printed number whose source states other settings than the recipe of its column."""
ODD_AVERAGE = "!"
"""Marks a printed average that the printed accuracies do not give."""


def printed_values(column: BlockColumn, method: str, metric: str = "top1") -> tuple[tuple[str, str], ...]:
    """Return printed accuracies, each with the letters of its sources: `(("81.22", "F°"), ("75.21", "BT"))`."""
    marks: dict[float, list[tuple[str, str]]] = {}
    for printed in column.printed[metric].get(method, ()):
        other = method != TEACHER and contradicted(column.column, printed)
        mark = sources()[printed.source].mark + OTHER_SETTINGS * bool(other)
        marks.setdefault(printed.number, []).append((printed.value, mark))
    # One number printed with one and with two decimals is one value: that with more digits.
    return tuple(
        (max((value for value, _ in same), key=len), "".join(sorted({mark for _, mark in same})))
        for _, same in sorted(marks.items())
    )


def printed_averages(label: str, block: Block) -> tuple[tuple[str, str], ...]:
    """Return the average gains that the tables of a block's pairs print for a method, with their sources."""
    tables = {(p.source, p.table) for c in block.columns for p in c.printed["top1"].get(label, ())}
    marks: dict[float, list[str]] = {}
    for average in averages():
        if average.method == label and (average.source, average.table) in tables and average.dataset == block.dataset:
            odd = "" if recomputes(average) else ODD_AVERAGE
            marks.setdefault(float(average.value), []).append(sources()[average.source].mark + odd)
    return tuple((f"{value:+.2f}", "".join(sorted(same))) for value, same in sorted(marks.items()))


def protocol_for(column: Column, printed: Printed) -> Protocol:
    """Return the settings behind a printed number."""
    return protocol_of(printed, model_kind(column.student))


def contradicted(column: Column, printed: Printed) -> tuple[str, ...]:
    """Return the settings of a column's recipe that no statement of the protocol behind a printed number has."""
    ours, protocol = flat(column.numbers), protocol_for(column, printed)
    return tuple(
        f"{key}: {setting_text(ours[key])} here"
        for key, said in sorted(protocol.stated().items())
        if key not in protocol.idle and ours[key] not in said.values()
    )


def cited(block: Block) -> list[str]:
    """Return the sources of a block's printed numbers in the order of their letters."""
    return sorted({printed.source for _, printed in _cells(block)}, key=lambda key: sources()[key].mark)


def source_lines(block: Block) -> tuple[str, ...]:
    """Return the sources of a block's printed numbers with their letters as a list, if there are any."""
    lines = []
    for key in cited(block):
        source, tables = sources()[key], {printed.table for _, printed in _cells(block) if printed.source == key}
        repeated = f", {source.repetitions} trainings a number" if source.repetitions else ""
        lines.append(f"*{source.mark}*: {key}, {plain(source.venue)}, {plain(', '.join(sorted(tables)))}{repeated}")
    if lines:
        lines.append(f"{OTHER_SETTINGS} the source states a setting that the recipe here does not have, see below")
        lines.append(f"{ODD_AVERAGE} the printed accuracies do not give this average, see [conflicts.md](conflicts.md)")
    return bullets(lines)


def protocol_lines(block: Block) -> tuple[str, ...]:
    """Return how the printed protocols of a block differ from the recipes of its pairs as a list, if there are any."""
    return protocols_of(_cells(block))


def protocols_of(cells: Iterable[tuple[Column, Printed]]) -> tuple[str, ...]:
    """Return how the protocols of printed numbers differ from the recipes of their columns as a list."""
    differences: dict[tuple[str, str], str] = {}
    used: dict[tuple[str, str], set[str]] = {}
    for column, printed in cells:
        if printed.method != TEACHER:
            protocol = protocol_for(column, printed)
            key = column.recipe, protocol.id
            differences[key] = plain("; ".join(protocol_differences(column.numbers, protocol)))
            used.setdefault(key, set()).add(sources()[printed.source].mark)
    return bullets(
        f"Recipe `{recipe}` against `{protocol}` ({', '.join(sorted(used[recipe, protocol]))}): {text}."
        for (recipe, protocol), text in differences.items()
    )


def _cells(block: Block) -> Iterable[tuple[Column, Printed]]:
    return (
        (column.column, value) for column in block.columns for same in column.printed["top1"].values() for value in same
    )
