"""The protocol of launchers."""

from typing import Protocol

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.options import RunOptions
from cakdbench.grid.plan import Cell


class Launcher(Protocol):
    """Works through a grid with the processes it has."""

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute all cells that are not done.

        Args:
            harness: of this process: it knows store, teachers, events and when to stop, and can itself compute.
            options: the same work as names, for other processes.

        Raises:
            TeacherError: a teacher cannot be had or is not what its entry says; no student has been trained.
            Interrupted: the user stopped; all is saved.
            StoreError: the store cannot be written.
        """
