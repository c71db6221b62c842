"""Write how a run goes into its folder while it goes: `log.txt` for readers, `losses.csv` for programs.

Both are appended line by line. A run that goes on from a checkpoint drops the lines of later steps, which it makes
again: so no line is lost and none is there twice.
"""

import csv
import io
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cakdbench.engine.progress import duration
from cakdbench.records import Epoch
from cakdbench.store.files import reason, remove, replace_file
from cakdbench.train.events import FLUSH_EVERY, GroupView
from cakdbench.utils.errors import StoreError

if TYPE_CHECKING:
    from cakdbench.train.lane import Lane

ROW_EVERY = FLUSH_EVERY
"""Steps of an epoch from one row to the next; the epoch's last step has one too."""
QUIET_SECONDS = 30.0
"""A line of the log appears at least this often, between the rows of slow steps."""
COLUMNS = ("epoch", "step", "lr", "train_top1", "top1", "ema_top1", "images_per_second")
"""As in `cakdbench.history`; after them a column a loss, `loss_kd`."""
TAIL_BYTES = 4096
"""Of a log, that say how far the run is: some of its last lines."""
STEP = re.compile(r"step (\d+)/(\d+)")
PACE = re.compile(r"; ([\d,]+) images/s; (\S+(?: s)?) left$")


class RunLog:
    """The two files of one run.

    Args:
        step: the optimizer steps the run has behind it; what the files say of later ones is dropped.
        title: of the run, for the first line.
    """

    def __init__(self, folder: Path, step: int, view: GroupView, title: str):
        self.text = log_file(folder)
        self.table = folder / "losses.csv"
        self._step = step
        self._steps = view.epochs * view.steps_per_epoch
        self._written = time.monotonic()
        self._columns: list[str] = []
        self._go_back(step)
        self.say("goes on from its checkpoint" if step else f"start: {title}")

    def update(self, lane: "Lane", view: GroupView, line: Epoch | None = None) -> None:
        """Write how far the lane is, if it is time; always for a `line` that closes an epoch."""
        self._step = lane.step
        row = line is not None or (lane.step - 1) % view.steps_per_epoch % ROW_EVERY == 0
        if row or time.monotonic() - self._written > QUIET_SECONDS:
            line = line or lane.epoch_so_far()
            if row:
                self._add_row(line, lane)
            self.say(f"epoch {line.epoch + 1}/{view.epochs}: {_describe(line, lane, view)}")

    def say(self, text: str) -> None:
        """Append a line to the log, under the step that the run is known to have made."""
        self._written = time.monotonic()
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        _append(self.text, f"{now} step {self._step}/{self._steps}: {' '.join(text.splitlines())}\n")

    def _add_row(self, line: Epoch, lane: "Lane") -> None:
        row = _row(line, lane)
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._rewrite(read_rows(self.table))
        _append(self.table, _csv([row], self._columns))

    def _go_back(self, step: int) -> None:
        """Drop what the files say of later steps; all of it, at the beginning of a run."""
        rows = [row for row in read_rows(self.table) if step and int(row["step"]) <= step]
        self._columns = list(rows[0]) if rows else []
        self._rewrite(rows)
        kept = [text for text in _lines(self.text) if step and _step(text) <= step]
        replace_file(self.text, "".join(kept).encode())

    def _rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the table anew, under a line of the columns; without any there is no table yet."""
        if self._columns:
            head = dict(zip(self._columns, self._columns))
            replace_file(self.table, _csv([head, *rows], self._columns).encode())
        else:
            remove(self.table)


def log_file(folder: Path) -> Path:
    """Return the log in a run's folder."""
    return folder / "log.txt"


@dataclass(frozen=True)
class Pace:
    """How far and how fast a run is, by the last lines of its log; speed and time left where one of them says so."""

    step: int
    steps: int
    images_per_second: str | None = None
    left: str | None = None

    def __str__(self) -> str:
        speed = f", {self.images_per_second} images/s" if self.images_per_second else ""
        return f"step {self.step}/{self.steps}{speed}" + (f", {self.left} left" if self.left else "")


def read_pace(folder: Path) -> Pace | None:
    """Return how far a run is; None before it has a log, or where that cannot be read."""
    lines = [line for line in _last_lines(log_file(folder)) if STEP.search(line)]
    if not lines:
        return None
    found, pace = STEP.search(lines[-1]), PACE.search(lines[-1].rstrip())
    assert found  # as all of these lines
    return Pace(int(found[1]), int(found[2]), *(pace.groups() if pace else ()))


def _last_lines(path: Path) -> list[str]:
    """Return the last whole lines of a log, without reading all of it."""
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a `losses.csv`; none without one."""
    table = csv.DictReader(_lines(path))
    return [row for row in table if (row["step"] or "").isdigit() and None not in row.values()]


def _describe(line: Epoch, lane: "Lane", view: GroupView) -> str:
    tests = {"train": line.train_top1, "test": line.top1, "test (EMA)": line.ema_top1}
    parts = [
        "loss " + ", ".join(f"{name} {value:.4f}" for name, value in line.losses.items()),
        ", ".join(f"{name} {value:.2f} %" for name, value in tests.items() if value is not None),
        f"lr {line.lr:.3g}",
        f"{lane.images_per_second or 0:,.0f} images/s",
        f"{duration(view.seconds_left or 0)} left",
    ]
    return "; ".join(parts)


def _row(line: Epoch, lane: "Lane") -> dict[str, Any]:
    speed = lane.images_per_second
    values = line.model_dump() | {"step": lane.step, "images_per_second": speed and round(speed, 1)}
    return {name: values[name] for name in COLUMNS} | {f"loss_{name}": x for name, x in line.losses.items()}


def _csv(rows: Iterable[dict[str, Any]], columns: list[str]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _step(line: str) -> int:
    found = STEP.search(line)
    return int(found[1]) if found else 0


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file; none if it is not there. The last may have been cut off by a crash.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; nothing finished is lost") from error
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {reason(error)}; nothing finished is lost") from error
