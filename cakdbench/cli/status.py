"""The runs of a store and their states, for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cakdbench.engine.run_log import read_pace
from cakdbench.store import RunFolder, Store, checkpoint_step
from cakdbench.utils.errors import StoreError

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunStatus:
    """A row of the table; `top1` in percent, `reason` why the run failed or cannot be read."""

    key: str
    label: str
    pair: str
    recipe: str
    seed: int | None
    state: str
    progress: str = ""
    top1: float | None = None
    reason: str | None = None


def status_table(store: Store) -> Group:
    """Return every run of a store, as a table."""
    return runs_table([run_status(run) for run in store.runs()])


def run_status(run: RunFolder) -> RunStatus:
    """Read the state of a run; a file that cannot be read is the reason."""
    state = run.state()
    try:
        identity = run.identity()
        record = run.record() if state == "done" else None
    except StoreError as error:
        return RunStatus(run.key, "", "", "", None, state, reason=str(error))
    epochs = identity.recipe.get("epochs", "?")
    if record:
        progress, top1 = f"{epochs}/{epochs} epochs", record.result.top1
    else:
        progress, top1 = _unfinished(run, state, epochs), None
    names = run.label(), identity.pair, run.recipe_name()
    return RunStatus(run.key, *names, identity.seed, state, progress, top1, run.failure())


def _unfinished(run: RunFolder, state: str, epochs: str) -> str:
    """Return how far a run is: one that is running by its log, with speed and time left, others as they are saved."""
    pace = read_pace(run.path)
    if pace and state == "running":
        return str(pace)
    return f"step {checkpoint_step(run.checkpoints)} of " + (str(pace.steps) if pace else f"{epochs} epochs")


def runs_table(runs: Sequence[RunStatus]) -> Group:
    """Lay out one row a run, in the given order, and below them the reasons.

    A row ends with the beginning of the part of the key that is unique.
    """
    table = Table()
    for head in ("method", "pair", "recipe", "seed", "state", "progress", "top-1", "key"):
        folds, right = head in ("method", "pair", "recipe", "progress"), head in ("seed", "top-1")
        table.add_column(head, overflow="fold", no_wrap=not folds, justify="right" if right else "left")
    for run in runs:
        seed = "" if run.seed is None else str(run.seed)
        top1 = "" if run.top1 is None else f"{run.top1:.2f}"
        cells = (run.progress, top1, run.key.rpartition("-")[2][:8])
        state = Text(run.state, style=STATE_STYLES.get(run.state, ""))
        table.add_row(*map(Text, (run.label, run.pair, run.recipe, seed)), state, *map(Text, cells))
    reasons = (Text(f"{run.key}: {run.reason}") for run in runs if run.reason is not None)
    return Group(table, *reasons)
