"""The live table of a store: what runs where, how far and how fast, and what has failed; from any machine."""

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cakdbench.cli.status import STATE_STYLES, RunStatus, count_line, read_statuses
from cakdbench.store import Store
from cakdbench.utils.errors import StoreError
from cakdbench.utils.interrupt import GracefulInterrupt

SECONDS = 2.0
"""From one look to the next, at least; a large store is looked at for a fifth of the time."""
SHOWN = ("running", "failed", "damaged")
OTHER_LINES = 6
"""Of the screen, that are no rows."""


def watch(console: Console, store: Store) -> None:
    """Show the store until the user stops it; a store that cannot be read for a while is waited for."""
    # Asked and not raised: what Ctrl-C raises is lost where it falls into a destructor, as one of a lock's.
    with GracefulInterrupt() as stop, Live(console=console, auto_refresh=False) as live:
        while not stop():
            started = time.monotonic()
            live.update(_look(console, store), refresh=console.is_terminal)
            if not console.is_terminal:
                console.print(live.renderable)
            took = time.monotonic() - started
            _wait(max(SECONDS, 4 * took), stop)


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stop() and time.monotonic() < end:
        time.sleep(0.1)


def _look(console: Console, store: Store) -> RenderableType:
    now = time.strftime("%H:%M:%S")
    try:
        runs = read_statuses(Store(store.root))
    except StoreError as error:
        return Text(f"{now}  {error}; looking again", "red")
    shown = [run for state in SHOWN for run in runs if run.state == state]
    room = max(console.height - OTHER_LINES, 5) if console.is_terminal else len(shown)
    head = Text(f"{now}  {store.root}: {count_line(runs) or 'no runs'}")
    more = [Text(f"and {len(shown) - room} more", "dim")] if len(shown) > room else []
    return Group(head, *([_table(shown[:room])] if shown else []), *more)


def _table(runs: list[RunStatus]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("method", "pair", "seed", "state", "how far", "where"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if name == "seed" else "left")
    for run in runs:
        seed = "" if run.seed is None else str(run.seed)
        far = run.progress if run.reason is None else run.reason
        state = Text(run.state, STATE_STYLES.get(run.state, ""))
        table.add_row(Text(run.label or run.key), Text(run.pair), seed, state, Text(far), Text(run.where or ""))
    return table
