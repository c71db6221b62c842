"""Time the parts of a training step, each between two waits for the device; inner parts are taken out of outer ones."""

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cakdbench.engine.speed.timing import wait
from cakdbench.train.lane import Lane

NETWORK = ("forward", "stem", "downsample", "blocks", "head", "mean_head", "mean_pooled")
"""The ways by which a method runs a network, or a part of it."""


class Clock:
    """Adds up seconds by phase; what happens inside of another phase counts there alone."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter):
        self.device = device
        self._now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        wait(self.device)
        started = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            wait(self.device)
            took = self._now() - started
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    @contextlib.contextmanager
    def watch(self, owner: Any, name: str, phase: str) -> Iterator[None]:
        """Count every call of a method of `owner` inside the block as the phase."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return original(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            delattr(owner, name)


@contextlib.contextmanager
def watching(clock: Clock, lane: Lane, compiled: bool) -> Iterator[None]:
    """Count a lane's `local_step` by its parts; "engine" is what is none of them.

    Of a compiled method, whose forward pass is one piece, student and method are "method" together with the engine.
    """
    method = lane.method
    parts = [(lane.accelerator, "backward", "backward"), (lane, "move_weights", "optimizer")]
    if lane.ema:
        parts.append((lane.ema, "update", "ema"))
    if not compiled:
        parts.append((method, "forward", "method"))
        parts += [(method.student, part, "student") for part in NETWORK]
        parts += [(method.teacher, part, "teacher") for part in NETWORK if method.teacher is not None]
    with contextlib.ExitStack() as stack:
        for owner, name, phase in parts:
            stack.enter_context(clock.watch(owner, name, phase))
        stack.enter_context(clock.phase("method" if compiled else "engine"))
        yield
