"""Tell experiment trackers how a run goes, by Accelerate's classes: a curve a run, which goes on where it was."""

import csv
import importlib.util
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from cakdbench.engine.run_log import ROW_EVERY
from cakdbench.records import Epoch
from cakdbench.store import RunFolder
from cakdbench.train.events import GroupView
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.train.lane import Lane


class CsvTracker(GeneralTracker):
    """Appends to `metrics.csv`, a row a value: step, name, value; what it has of later steps is dropped."""

    name = "csv"
    requires_logging_directory = True

    def __init__(self, path: Path, step: int):
        super().__init__()
        self.path = path
        kept = [row for row in _read(path) if row[0].isdigit() and int(row[0]) <= step] if step else []
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["step", "name", "value"], *kept])

    @property
    def tracker(self) -> Path:
        return self.path

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([step, name, value] for name, value in values.items())


def _read(path: Path) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if len(row) == 3]
    except FileNotFoundError:
        return []


def _csv(run: RunFolder, title: str, step: int) -> GeneralTracker:
    return CsvTracker(run.path / "metrics.csv", step)


def _tensorboard(run: RunFolder, title: str, step: int) -> GeneralTracker:
    more = {"purge_step": step + 1} if step else {}
    return TensorBoardTracker("tensorboard", run.path, **more)


def _wandb(run: RunFolder, title: str, step: int) -> GeneralTracker:
    import wandb

    return WandBTracker(
        os.environ.get("WANDB_PROJECT", "cakdbench"),
        id=run.key,
        name=title,
        dir=str(run.path),
        config=run.identity().model_dump(exclude_none=True),
        resume="allow",
        reinit="create_new",  # beside those of other lanes
        settings=wandb.Settings(console="off", silent=True),  # the screen is the grid's
    )


TRACKERS: dict[str, Callable[[RunFolder, str, int], GeneralTracker]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def tracker_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the trackers that `tensorboard,csv` names.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    parts = names.split(",") if isinstance(names, str) else names
    wanted = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for name in wanted:
        if name not in TRACKERS:
            raise UsageError(f"unknown tracker {name!r}: choose from {', '.join(TRACKERS)}")
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise UsageError(f'the tracker {name} is not installed: pip install "cakdbench[track]"')
    return wanted


class Tracks:
    """The trackers of one run. One that fails is told of and left out: it costs no run.

    Args:
        names: of `TRACKERS`.
        title: of the run, for readers.
        step: the optimizer steps the run has behind it; its curves go on after them.
        say: tells the user a sentence.
    """

    def __init__(self, names: Iterable[str], run: RunFolder, title: str, step: int, say: Callable[[str], None]):
        self._say = say
        self._trackers: dict[str, GeneralTracker] = {}
        for name in names:
            self._try(name, partial(self._start, name, run, title, step))

    def _start(self, name: str, run: RunFolder, title: str, step: int) -> None:
        tracker = TRACKERS[name](run, title, step)
        if hasattr(tracker, "start"):  # earlier versions of Accelerate start when they are made
            tracker.start()
        self._trackers[name] = tracker

    def update(self, lane: "Lane", view: GroupView, line: Epoch | None = None) -> None:
        """Log the lane's losses, accuracies and rates, as often as `losses.csv` has a row."""
        if not self._trackers or (line is None and (lane.step - 1) % view.steps_per_epoch % ROW_EVERY):
            return
        values = metrics(line or lane.epoch_so_far(), lane.images_per_second)
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, values, step=lane.step))

    def close(self) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.finish)
        self._trackers.clear()

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # of a service, of its client, of a disk
            self._trackers.pop(name, None)
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._say(f"the tracker {name} is left out from here on: {told}")


def metrics(line: Epoch, images_per_second: float | None) -> dict[str, float]:
    """Return the numbers of an epoch, or of the part of it so far, by the names that curves have."""
    values = {
        "lr": line.lr,
        "images_per_second": images_per_second,
        "accuracy/train": line.train_top1,
        "accuracy/test": line.top1,
        "accuracy/test_ema": line.ema_top1,
    } | {f"loss/{name}": value for name, value in line.losses.items()}
    return {name: value for name, value in values.items() if value is not None}
