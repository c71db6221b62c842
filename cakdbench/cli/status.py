"""The runs of a store and their states, for the terminal."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from cakdbench.cli.tables import Layout, Listing, print_rows
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


def print_status(console: Console, store: Store, layout: Layout = Layout.table) -> None:
    """Print every run of a store, and below the table the reasons of those that failed; or JSON."""
    runs = [run_status(run) for run in store.runs()]
    if layout is Layout.json:
        return print_rows(console, Listing([asdict(run) for run in runs]), layout)
    console.print(Listing([_row(run) for run in runs], prose=["progress"], right=["seed", "top-1"]))
    for run in runs:
        if run.reason is not None:
            console.print(Text(f"{run.key}: {run.reason}"))


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


def _row(run: RunStatus) -> dict[str, Any]:
    """Return a row; it ends with the beginning of the part of the key that is unique."""
    return {
        "method": run.label,
        "pair": run.pair,
        "seed": run.seed,
        "state": Text(run.state, style=STATE_STYLES.get(run.state, "")),
        "top-1": None if run.top1 is None else f"{run.top1:.2f}",
        "progress": run.progress,
        "key": run.key.rpartition("-")[2][:8],
        "recipe": run.recipe,
    }
