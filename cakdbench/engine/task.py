"""A task: a cell of the plan that is to be trained, and where its run lies."""

from dataclasses import dataclass

from cakdbench.grid.plan import Cell
from cakdbench.records import Identity
from cakdbench.store import RunFolder, checkpoint_step


@dataclass(frozen=True)
class Task:
    """A cell whose key is known, and its folder, locked by this process while it is worked on."""

    cell: Cell
    identity: Identity
    folder: RunFolder

    @property
    def key(self) -> str:
        return self.folder.key


def waited_for(tasks: list[Task]) -> str:
    """Return whom this process waits for: a sentence with the file and the host of the first lock."""
    more = f" (and {len(tasks) - 1} more)" if len(tasks) > 1 else ""
    return f"waiting for {len(tasks)} runs that another process works on: {tasks[0].folder.lock.describe()}{more}"


def steps_of(group: list[Task]) -> int:
    """Return how far the runs of a group are, together; a finished one counts as very far."""
    return sum(10**9 if task.folder.is_done else checkpoint_step(task.folder.checkpoints) for task in group)
