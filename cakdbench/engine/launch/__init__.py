"""Launchers: where the processes come from that work through a grid.

A launcher has the grid as names, `RunOptions`: written as JSON they are read back by `launch.worker` in any process
that sees the same files. And it has the store, where processes meet: the lock of a run says who works on it, its files
how far it is. So it calls `worker.work_through(Assignment(options, share))` in as many places as it has, and tells what
the store says. A launcher for a cluster needs no more than the one for this machine, `local`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cakdbench.engine.harness import Harness, Outcome
    from cakdbench.engine.options import RunOptions
    from cakdbench.grid.plan import Cell

MIN_LANES_PER_WORKER = 4
"""Lanes that are worth a pass of their own over the data, by a process that has nothing else to do."""


@dataclass(frozen=True)
class Share:
    """Bound how much of the work that is left one of several processes takes at a time.

    Attributes:
        processes: that share the work, this one among them.
        from_the_end: take the last group first, to keep out of the way of those that begin at the front.
    """

    processes: int = 1
    from_the_end: bool = False

    def lanes(self, left: int) -> int:
        """Return how many of the lanes that are left a group of this process may have."""
        return left if self.processes == 1 else max(MIN_LANES_PER_WORKER, math.ceil(left / self.processes))


ALL = Share()
"""The share of a process that works alone."""


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
