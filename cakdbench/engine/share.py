"""Divide the work that is left among processes."""

import math
from dataclasses import dataclass

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
