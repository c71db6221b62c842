"""The printed numbers of a board: how they are written, their sources, and how their settings differ from ours."""

from collections.abc import Iterable, Iterator

from cakdbench.models.zoo import model_kind
from cakdbench.published.compare import (
    Printed,
    Protocol,
    averages,
    protocol_differences,
    protocol_of,
    recomputes,
    sources,
)
from cakdbench.published.protocols import flat, setting_text
from cakdbench.reports.board import TEACHER, Block, Column
from cakdbench.reports.markup import plain

OTHER_SETTINGS = "°"
"""Marks a printed number whose source states other settings than the recipe of its column."""
ODD_AVERAGE = "!"
"""Marks a printed average that the printed accuracies do not give."""


def printed_text(values: Iterable[Printed], column: Column) -> str:
    """Printed accuracies in italics, each with the letters of its sources: `*81.22 F°, 75.21 BT*`."""
    marks: dict[float, list[tuple[str, str]]] = {}
    for each in values:
        other = each.method != TEACHER and contradicted(column, protocol_for(column, each))
        mark = sources()[each.source].mark + OTHER_SETTINGS * bool(other)
        marks.setdefault(each.number, []).append((each.value, mark))
    texts = (
        f"{max((value for value, _ in found), key=len)} {''.join(sorted({mark for _, mark in found}))}"
        for _, found in sorted(marks.items())
    )
    return italic(texts)


def printed_average(label: str, block: Block) -> str:
    """The average gains that the tables of a block's pairs print for a method, in italics with their sources."""
    tables = {(p.source, p.table) for c in block.columns for p in c.printed.get(label, ())}
    marks: dict[float, list[str]] = {}
    for each in averages():
        if each.method == label and (each.source, each.table) in tables and each.dataset == block.dataset:
            odd = "" if recomputes(each) else ODD_AVERAGE
            marks.setdefault(float(each.value), []).append(sources()[each.source].mark + odd)
    return italic(f"{value:+.2f} {''.join(sorted(found))}" for value, found in sorted(marks.items()))


def italic(texts: Iterable[str]) -> str:
    """Texts as one list in italics; nothing for none."""
    texts = list(dict.fromkeys(texts))
    return f"*{', '.join(texts)}*" if texts else ""


def protocol_for(column: Column, printed: Printed) -> Protocol:
    """The settings behind a printed number."""
    return protocol_of(printed, model_kind(column.student))


def contradicted(column: Column, protocol: Protocol) -> tuple[str, ...]:
    """The settings of a column's recipe that none of the protocol's statements has."""
    ours = flat(column.numbers)
    return tuple(
        f"{key}: {setting_text(ours[key])} here"
        for key, said in sorted(protocol.stated().items())
        if key not in protocol.idle and ours[key] not in said.values()
    )


def source_lines(block: Block) -> Iterator[str]:
    """The sources of a block's printed numbers with their letters: a list, if there are any."""
    used = {each.source for column in block.columns for values in column.printed.values() for each in values}
    lines = []
    for key in sorted(used, key=lambda key: sources()[key].mark):
        source = sources()[key]
        tables = sorted(
            {
                p.table
                for column in block.columns
                for values in column.printed.values()
                for p in values
                if p.source == key
            }
        )
        repeated = f", {source.repetitions} trainings a number" if source.repetitions else ""
        lines.append(f"- *{source.mark}*: {key}, {plain(source.venue)}, {plain(', '.join(tables))}{repeated}")
    if lines:
        lines.append(f"- {OTHER_SETTINGS} the source states a setting that the recipe here does not have, see below")
        lines.append(
            f"- {ODD_AVERAGE} the printed accuracies do not give this average, see [conflicts.md](conflicts.md)"
        )
        yield "\n".join(lines)


def protocol_lines(block: Block) -> Iterator[str]:
    """How the printed protocols of a block differ from the recipes of its pairs: a list, if there are any."""
    found: dict[tuple[str, str], tuple[list[str], set[str]]] = {}
    for column in block.columns:
        for label, values in column.printed.items():
            for printed in values if label != TEACHER else ():
                protocol = protocol_for(column.column, printed)
                differences = protocol_differences(column.column.numbers, protocol)
                found.setdefault((protocol.id, column.column.recipe), (differences, set()))[1].add(printed.source)
    lines = [
        f"- Recipe `{recipe}` against `{protocol}` ({', '.join(sorted(marks(used)))}): {plain('; '.join(differences))}."
        for (protocol, recipe), (differences, used) in found.items()
    ]
    if lines:
        yield "\n".join(lines)


def marks(used: Iterable[str]) -> list[str]:
    """Sources by the letters that stand for them in tables."""
    return [sources()[key].mark for key in used]
