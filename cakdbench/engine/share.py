"""Divide the work that is left among processes."""

import math
from dataclasses import dataclass

MIN_LANES_PER_WORKER = 4
"""Lanes that are worth a pass of their own over the data, where there are enough for everybody."""


@dataclass(frozen=True)
class Share:
    """Bound how much of the work that is left one of several processes takes at a time.

    Attributes:
        processes: that share the work, this one among them.
        first: which of the groups that are left it takes first, so that processes that begin together do not meet.
        once: end after one group, or when all that is left is locked; otherwise wait for what others have locked.
    """

    processes: int = 1
    first: int = 0
    once: bool = False

    def lanes(self, left: int, total: int) -> int:
        """Return how many of the lanes that are left a group of this process may have.

        Args:
            total: lanes of the grid, done or not. Few of them are spread thin: a core that waits helps nobody.
        """
        least = max(1, min(MIN_LANES_PER_WORKER, total // self.processes))
        return left if self.processes == 1 else max(least, math.ceil(left / self.processes))


ALL = Share()
"""The share of a process that works alone."""
