"""The page `leaderboards/conflicts.md`: where printed numbers disagree, and how the boards read them."""

from collections.abc import Iterator
from itertools import combinations
from typing import get_args

import pandas as pd

from cakdbench.published.compare import overlap, recomputed, recomputes
from cakdbench.published.conflicts import Conflict, conflicts
from cakdbench.published.ledger import accuracies, averages, sources
from cakdbench.published.protocols import By, Protocol, protocols, setting_text
from cakdbench.reports.board import Board, Section, table
from cakdbench.reports.text import MISSING, prose


def conflicts_board() -> Board:
    """Return the page; equal ledgers give equal pages."""
    return Board("conflicts", "Where the printed numbers disagree", tuple(_sections()))


def _sections() -> Iterator[Section]:
    whole = [average for average in averages() if not average.repeats]
    counts = {"printed": len(accuracies()), "whole": len(whole), "repeated": len(averages()) - len(whole)}
    texts = prose("conflicts", right=sum(map(recomputes, whole)), **counts)
    yield Section(label="About", notes=texts["about"])
    yield Section("Sources", frame=_source_table())
    pairs = {f"`{one}`, `{other}`": overlap(one, other) for one, other in combinations(sources(), 2)}
    rows = [[names, str(both), str(differing)] for names, (both, differing) in pairs.items() if both]
    overlaps = table(["sources", "cells of both", "disagree"], rows)
    yield Section("How much was compared", notes=texts["count"], frame=overlaps)
    yield Section("1. One cell, two sources", frame=_cell_table("sources"))
    yield Section("2. One cell, two places of one source", frame=_cell_table("places"))
    heads = ["", "what", "the text says", "the tables", "verdict"]
    claims = ([c.id, c.subject, c.claim, c.remark, c.reading] for c in _of_kind("claim"))
    yield Section("3. Sentences against tables", frame=table(heads, claims))
    yield Section("4. Averages that do not recompute", notes=texts["averages"], frame=_average_table())
    yield Section("5. Settings", notes=texts["swapped"])
    yield from map(_protocol, (protocol for protocol in protocols().values() if protocol.printed_under))
    yield Section("What remains", 3, frame=_cell_table("settings"))
    yield Section("6. Damaged places", notes=texts["damaged"], frame=_cell_table("damaged"))
    yield Section("7. Odd, but no contradiction", frame=_cell_table("odd"))


def _source_table() -> pd.DataFrame:
    rows = []
    for key, source in sources().items():
        trainings = str(source.repetitions or "not stated")
        trainings += f" ({', '.join(source.repeated)} only)" if source.repeated else ""
        citation = f"{source.citation} {source.venue}, {source.year}. {source.notes}".strip()
        rows.append([source.mark, f"`{key}`", citation, source.url, trainings])
    return table(["", "key", "source", "where", "trainings behind a number"], rows)


def _of_kind(kind: str) -> list[Conflict]:
    return [conflict for conflict in conflicts() if conflict.kind == kind]


def _cell_table(kind: str) -> pd.DataFrame:
    """Return the conflicts of a kind; columns in which none has anything are left out."""
    heads = ["", "what", "dataset", "printed", "remark", "the boards use"]
    rows = []
    for c in _of_kind(kind):
        datasets = ", ".join(dict.fromkeys(cell.dataset for cell in c.cells if cell.dataset))
        rows.append([c.id, c.subject, datasets, _values(c), c.remark, c.reading])
    frame = table(heads, rows)
    return frame.loc[:, (frame != "").any()].replace("", MISSING)


def _average_table() -> pd.DataFrame:
    remarks = {row: conflict for conflict in _of_kind("average") for cell in conflict.cells for row in cell.rows()}
    rows = []
    for average in averages():
        if not average.repeats and not recomputes(average):
            conflict = remarks[average]
            place = f"{sources()[average.source].mark} {average.table}, {average.printed_as}"
            numbers = average.pairs, average.value, f"{recomputed(average):.4f}"
            rows.append([conflict.id, place, *numbers, conflict.remark])
    return table(["", "what", "pairs", "printed", "recomputed", "remark"], sorted(rows))


def _protocol(protocol: Protocol) -> Section:
    title = f"{protocol.dataset}, {'/'.join(protocol.kinds)} students"
    note = f'Printed under "{protocol.printed_under}". {protocol.notes}'
    rows = []
    for key, said in protocol.stated().items():
        texts = [setting_text(said[by]) if by in said else "" for by in get_args(By)]
        rows.append([key, *texts, "•" if key in protocol.conflicting() else ""])
    return Section(title, 3, notes=(note,), frame=table(["setting", *get_args(By), ""], rows))


def _values(conflict: Conflict) -> str:
    """Return the cells' values, each with where it is printed, and with what the cells do not have in common."""
    columns = ["dataset", "teacher", "student", "method", "model", "setting", "metric"]
    differing = [key for key in columns if len({getattr(cell, key) for cell in conflict.cells}) > 1]
    places: dict[str, dict[str, None]] = {}
    for cell in conflict.cells:
        names = [getattr(cell, key) for key in differing if getattr(cell, key)]
        place = ", ".join(filter(None, [f"{sources()[cell.source].mark} {cell.table}", cell.mode, cell.panel]))
        places.setdefault(" ".join([*names, cell.value]), {})[place] = None
    return "; ".join(f"{value} ({', '.join(where)})" for value, where in places.items())
