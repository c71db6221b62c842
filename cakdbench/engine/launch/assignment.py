"""Tell a worker what it has to know, in plain values."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cakdbench.engine.launch.place import Place
from cakdbench.engine.options import RunOptions
from cakdbench.engine.share import ALL, Share
from cakdbench.grid.plan import Cell
from cakdbench.models.catalog import entry
from cakdbench.utils.imports import FILE_MODULE


@dataclass(frozen=True)
class Assignment:
    """A grid, and one process's share of it; `engine.options.to_json` writes it.

    Attributes:
        parent: id of the process that the worker ends with; None for one that goes on by itself.
        modules: to be imported, for the methods they register.
        place: what a worker on another machine must have.
        verify: only verify the teachers, and train nothing.
        said: folder for what the worker has to say; None for one in silence.
    """

    options: RunOptions
    share: Share = ALL
    parent: int | None = None
    modules: tuple[str, ...] = ()
    place: Place | None = None
    verify: bool = False
    said: Path | None = None


def modules_of(cells: list[Cell]) -> tuple[str, ...]:
    """Return the modules of the cells' methods and networks that others can import; files come by their paths."""
    return tuple(sorted({name for _, name in _modules(cells) if _importable(name)}))


def local_methods(cells: list[Cell]) -> list[str]:
    """Return the ids of what is known in this process alone, as methods and networks of a notebook's cell."""
    return sorted({id for id, name in _modules(cells) if name == "__main__"})


def _modules(cells: list[Cell]) -> Iterator[tuple[str, str]]:
    """Yield ids of methods and of the user's own networks with their modules."""
    for cell in cells:
        yield cell.method.id, cell.method.__module__
        for model in (cell.pair.student, *cell.pair.teacher_models):
            if module := entry(model).module:
                yield model, module


def _importable(name: str) -> bool:
    return name != "__main__" and not name.startswith(FILE_MODULE)
