"""Tell a worker what it has to know, in plain values."""

from dataclasses import dataclass

from cakdbench.engine.launch import ALL, Share
from cakdbench.engine.options import RunOptions
from cakdbench.grid.plan import Cell
from cakdbench.utils.imports import FILE_MODULE


@dataclass(frozen=True)
class Assignment:
    """A grid, and one process's share of it; `engine.options.to_json` writes it.

    Attributes:
        parent: id of the process that the worker ends with; None for one that goes on by itself.
        modules: to be imported, for the methods they register.
    """

    options: RunOptions
    share: Share = ALL
    parent: int | None = None
    modules: tuple[str, ...] = ()


def modules_of(cells: list[Cell]) -> tuple[str, ...]:
    """Return the modules of the cells' methods that other processes can import; files come by their paths."""
    names = {cell.method.__module__ for cell in cells}
    return tuple(sorted(name for name in names if _importable(name)))


def local_methods(cells: list[Cell]) -> list[str]:
    """Return the ids of methods that are known in this process alone, as those written in a notebook's cell."""
    return sorted({cell.method.id for cell in cells if cell.method.__module__ == "__main__"})


def _importable(name: str) -> bool:
    return name != "__main__" and not name.startswith(FILE_MODULE)
