"""Stopping between two steps instead of anywhere."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None


HANGUP = getattr(signal, "SIGHUP", None)
"""What a process gets whose terminal is closed; Windows has none."""


class GracefulInterrupt:
    """A question that turns true at the first SIGINT, SIGTERM or SIGHUP inside its block; a second SIGINT ends at once.

    A SIGHUP that is ignored, as under nohup, stays ignored. Signal handlers are those from before when the block is
    left.

    Args:
        numbers: other signals to listen to, instead of these.

    Attributes:
        received: the first signal; None as long as there was none.
    """

    def __init__(self, *numbers: int) -> None:
        self.received: int | None = None
        self._numbers = numbers or (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))
        self._before: dict[int, Handler] = {}
        self._terminals: list[int] = []

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "GracefulInterrupt":
        numbers = [n for n in self._numbers if n != HANGUP or signal.getsignal(n) != signal.SIG_IGN]
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.received = self.received or number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if number == HANGUP:
            self._leave_terminal()

    def _leave_terminal(self) -> None:
        """Send the output nowhere: writing to a terminal that is closed raises, before the work is saved."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in self._terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
