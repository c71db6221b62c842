"""Cells in the order of their links: what others learn or start from comes first, and then has a key for its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from cakdbench.grid.pairs import RUN
from cakdbench.grid.plan import Cell
from cakdbench.store import RunFolder

Find = Callable[[Cell], RunFolder]
"""Returns the folder of a cell whose runs and teachers are at hand."""


@dataclass
class Wave:
    """Cells that can be worked on together.

    Attributes:
        cells: with keys in the place of the runs that they name.
        dropped: why the other cells cannot be made, by what they are called.
    """

    cells: list[Cell] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)


def waves(cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells by how many runs have to be made before them, one after the other; see `ground_wave`."""
    ordered = sorted(cells, key=lambda cell: cell.wave)
    return [list(wave) for _, wave in groupby(ordered, key=lambda cell: cell.wave)]


def ground_wave(cells: list[Cell], find: Find) -> Wave:
    """Return the cells of a wave whose turn has come; those whose runs are not done fail with them."""
    wave = Wave()
    for cell in cells:
        if known := ground(cell, find):
            wave.cells.append(known)
        else:
            missing = next(name for name, link in cell.links if _finished(link, find) is None)
            wave.dropped[f"{cell.label} on {cell.pair}, seed {cell.seed}"] = f"{missing} could not be made"
    return wave


def ground(cell: Cell, find: Find) -> Cell | None:
    """Return a cell with the keys of the runs that it names; None if one is not done."""
    runs = {name: _finished(link, find) for name, link in cell.links}
    keys = {name: f"{RUN}{run.key}" for name, run in runs.items() if run}
    if len(keys) < len(runs):
        return None
    return cell.with_runs(keys) if keys else cell


def _finished(cell: Cell, find: Find) -> RunFolder | None:
    known = ground(cell, find)
    folder = find(known) if known else None
    return folder if folder and folder.is_done else None
