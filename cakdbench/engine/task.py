"""A task: a cell of the plan that is to be trained, and where its run lies."""

from dataclasses import dataclass

from cakdbench.grid.plan import Cell
from cakdbench.records import Identity
from cakdbench.store import RunFolder


@dataclass(frozen=True)
class Task:
    """A cell whose key is known, and its folder, locked by this process while it is worked on."""

    cell: Cell
    identity: Identity
    folder: RunFolder

    @property
    def key(self) -> str:
        return self.folder.key
