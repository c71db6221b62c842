"""Stopping between two steps instead of anywhere."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None


class GracefulInterrupt:
    """A question that turns true at the first SIGINT or SIGTERM inside its block; a second SIGINT ends at once.

    Signal handlers are those from before when the block is left.

    Args:
        numbers: other signals to listen to.

    Attributes:
        received: the first signal; None as long as there was none.
    """

    def __init__(self, *numbers: int) -> None:
        self.received: int | None = None
        self._numbers = numbers or (signal.SIGINT, signal.SIGTERM)
        self._before: dict[int, Handler] = {}

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "GracefulInterrupt":
        self._before = {number: signal.signal(number, self._ask) for number in self._numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.received = self.received or number
        signal.signal(signal.SIGINT, signal.default_int_handler)
