"""Report on a running grid: the harness and the trainer speak, a display listens."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from cakdbench.records import Epoch

FLUSH_EVERY = 20
"""Steps on a GPU between two waits for its numbers; on a CPU they are there at once."""


@dataclass
class LaneView:
    """One lane as a display sees it; `top1` in percent, from the latest evaluation."""

    label: str
    state: str = "running"
    loss: float | None = None
    top1: float | None = None
    images_per_second: float | None = None


@dataclass
class GroupView:
    """The group in training: one pass over the data for all its lanes."""

    title: str
    recipe: str
    seed: int
    epochs: int
    steps_per_epoch: int
    lanes: list[LaneView]
    step: int = 0
    first_step: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def epoch(self) -> int:
        """Return the epoch in progress, from 0."""
        return min(self.step // self.steps_per_epoch, self.epochs - 1)

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds to the end at the pace so far; None before the first step."""
        done = self.step - self.first_step
        left = self.epochs * self.steps_per_epoch - self.step
        return (time.monotonic() - self.started) / done * left if done else None


@dataclass(frozen=True)
class GroupRow:
    """A group that another machine trains: what it is, how many lanes, how far and how fast."""

    name: str
    lanes: int
    pace: str


class Events(Protocol):
    """Listens to a grid. `tick` comes at every step and has to be cheap."""

    def grid(self, done: int, failed: int, total: int) -> None:
        """Hear how many runs of the grid are finished."""

    def group(self, view: GroupView) -> None:
        """Hear that a group starts."""

    def tick(self, view: GroupView) -> None:
        """Hear that a step has been made, or a lane has changed its state."""

    def epoch(self, view: GroupView, label: str, line: Epoch) -> None:
        """Hear that a lane has finished an epoch."""

    def groups(self, rows: list[GroupRow]) -> None:
        """Hear how all groups stand that other machines train, every few seconds."""

    def say(self, text: str) -> None:
        """Hear a sentence for the user."""


class NoEvents:
    """Listens and does nothing."""

    def grid(self, done: int, failed: int, total: int) -> None: ...

    def group(self, view: GroupView) -> None: ...

    def tick(self, view: GroupView) -> None: ...

    def epoch(self, view: GroupView, label: str, line: Epoch) -> None: ...

    def groups(self, rows: list[GroupRow]) -> None: ...

    def say(self, text: str) -> None: ...
