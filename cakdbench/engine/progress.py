"""Shows a running grid: a live area on a terminal, plain lines anywhere else.

Nothing here runs in a thread of its own: the display is redrawn from the calls it gets, so that data workers
forked from this process never inherit a console that is locked in the middle of a line.
"""

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cakdbench.records import Epoch
from cakdbench.train.events import GroupRow, GroupView, LaneView

REDRAWS_PER_SECOND = 4
PLAIN_PROGRESS_SECONDS = 15.0
STATE_STYLES = {"running": "cyan", "done": "green", "failed": "red"}

Clock = Callable[[], float]


def progress_on(console: Console) -> "LiveProgress | PlainProgress":
    """Return the display that suits `console`, to be shown in a `with` block."""
    live = console.is_interactive and not console.is_dumb_terminal and console.file.isatty()
    return LiveProgress(console) if live else PlainProgress(console)


class _Progress:
    """What both displays have: where they print, the grid, and the group in training.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic):
        self._console = console
        self._clock = clock
        self._next = float("-inf")
        self._grid = (0, 0, 0)
        self._view: GroupView | None = None

    def say(self, text: str) -> None:
        # Soft wrapping leaves lines whole in logs; on a terminal Live has to know how many lines there are.
        self._console.print(text, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def _leave_group(self) -> None:
        if self._view:
            self.say(group_summary(self._view))
            self._view = None


class LiveProgress(_Progress):
    """A live area under the ordinary output: the grid, the group in training, a row for each lane.

    The terminal is as it was when its block is left, in whatever way.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic):
        super().__init__(console, clock)
        self._rows: list[GroupRow] = []
        self._started = clock()
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> "LiveProgress":
        self._started = self._clock()
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        self._leave_group()

    def grid(self, done: int, failed: int, total: int) -> None:
        self._grid = (done, failed, total)
        self._redraw()

    def group(self, view: GroupView) -> None:
        self._leave_group()
        self._view = view
        self._redraw()

    def tick(self, view: GroupView) -> None:
        if self._clock() >= self._next:
            self._redraw()

    def epoch(self, view: GroupView, label: str, line: Epoch) -> None:
        self.tick(view)

    def groups(self, rows: list[GroupRow]) -> None:
        self._rows = rows
        self._redraw()

    def _redraw(self) -> None:
        self._live.refresh()
        self._next = self._clock() + 1 / REDRAWS_PER_SECOND

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [_grid_line(*self._grid, self._clock() - self._started)]
        if self._view:
            parts += [*_group_lines(self._view), _lane_table(self._view.lanes)]
        if self._rows:
            parts.append(_group_table(self._rows))
        return Group(*parts)


class PlainProgress(_Progress):
    """One line for each thing worth keeping in a log; nothing is ever overwritten."""

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave_group()

    def grid(self, done: int, failed: int, total: int) -> None:
        if (done, failed, total) != self._grid:
            self._grid = (done, failed, total)
            self.say(f"runs: {_grid_text(done, failed, total)}")

    def group(self, view: GroupView) -> None:
        self._leave_group()
        self._view = view
        lanes = ", ".join(lane.label for lane in view.lanes)
        self.say(f"start: {_group_name(view)}: {lanes}")
        self._next = self._clock() + PLAIN_PROGRESS_SECONDS

    def tick(self, view: GroupView) -> None:
        if (now := self._clock()) >= self._next:
            self._next = now + PLAIN_PROGRESS_SECONDS
            self.say(f"  {_place(view)}")

    def epoch(self, view: GroupView, label: str, line: Epoch) -> None:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in line.losses.items())
        tests = [f"train {line.train_top1:.2f}", f"test {_number(line.top1, '.2f')}"]
        if line.ema_top1 is not None:
            tests.append(f"test (EMA) {line.ema_top1:.2f}")
        self.say(f"  {label}: epoch {line.epoch + 1}/{view.epochs}: {losses}; {', '.join(tests)}")

    def groups(self, rows: list[GroupRow]) -> None:
        if (now := self._clock()) >= self._next:
            self._next = now + PLAIN_PROGRESS_SECONDS
            for row in rows:
                self.say(f"  {row.name}: {row.lanes} lanes, {row.pace}")


def group_summary(view: GroupView) -> str:
    """Return one line on how a group ended, or how far it came."""
    complete = view.step >= view.epochs * view.steps_per_epoch
    end = "end" if complete else f"stopped at epoch {view.epoch + 1}/{view.epochs}"
    return f"{end}: {_group_name(view)}: {', '.join(map(_lane_end, view.lanes))}"


def _lane_end(lane: LaneView) -> str:
    accuracy = "" if lane.top1 is None else f" {lane.top1:.2f}"
    return f"{lane.label} failed" if lane.state == "failed" else f"{lane.label}{accuracy}"


def _group_name(view: GroupView) -> str:
    return f"{view.title}, {view.recipe}, seed {view.seed}"


def _grid_text(done: int, failed: int, total: int) -> str:
    return f"{done}/{total} done" + (f", {failed} failed" if failed else "")


def _place(view: GroupView) -> str:
    step = view.step - view.epoch * view.steps_per_epoch
    left = view.seconds_left
    return (
        f"epoch {view.epoch + 1}/{view.epochs}, step {step}/{view.steps_per_epoch}, "
        f"ETA {'-' if left is None else duration(left)}"
    )


def duration(seconds: float) -> str:
    """Return a time as `59 s`, `12:05` or `3:00:10`; days are counted in hours."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _bar_line(name: str, completed: int, total: int, text: str) -> Table:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True, width=6)
    line.add_column(ratio=1, min_width=8)
    line.add_column(no_wrap=True, justify="right")
    line.add_row(name, ProgressBar(total=max(total, 1), completed=completed), Text(text))
    return line


def _grid_line(done: int, failed: int, total: int, seconds: float) -> Table:
    return _bar_line("grid", done + failed, total, f"{_grid_text(done, failed, total)}, {duration(seconds)}")


def _group_lines(view: GroupView) -> list[RenderableType]:
    name = Text(_group_name(view), style="bold", no_wrap=True, overflow="ellipsis")
    return [name, _bar_line("group", view.step, view.epochs * view.steps_per_epoch, _place(view))]


def _group_table(rows: list[GroupRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("group")  # the only column that may shrink: its cells are cut, not wrapped
    table.add_column("lanes", justify="right", no_wrap=True)
    table.add_column("pace", no_wrap=True)
    for row in rows:
        table.add_row(Text(row.name, no_wrap=True, overflow="ellipsis"), str(row.lanes), row.pace)
    return table


def _lane_table(lanes: list[LaneView]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("lane")  # the only column that may shrink: its cells are cut, not wrapped
    for name in ("state", "loss", "test top-1", "images/s"):
        table.add_column(name, no_wrap=True, justify="left" if name == "state" else "right")
    for lane in lanes:
        label = Text(lane.label, no_wrap=True, overflow="ellipsis")
        state = Text(lane.state, style=STATE_STYLES.get(lane.state, ""))
        numbers = ((lane.loss, ".4f"), (lane.top1, ".2f"), (lane.images_per_second, ",.0f"))
        table.add_row(label, state, *(_number(*number) for number in numbers))
    return table
