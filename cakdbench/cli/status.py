"""The runs of a store and their states, for the terminal."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from cakdbench.cli.tables import Layout, Listing, print_rows
from cakdbench.engine.run_log import read_pace
from cakdbench.store import RunFolder, Store, checkpoint_step
from cakdbench.store.folder import NO_SUMS
from cakdbench.utils.errors import StoreError

STATE_STYLES = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunStatus:
    """A row of the table; `top1` in percent, `where` it is computed, `reason` why it failed or is not to be trusted."""

    key: str
    label: str
    pair: str
    recipe: str
    seed: int | None
    state: str
    progress: str = ""
    top1: float | None = None
    where: str | None = None
    reason: str | None = None


def read_statuses(store: Store) -> list[RunStatus]:
    """Return the state of every run, in the order of their keys; what is damaged stops no other."""
    runs = [run_status(run, store) for run in store.runs()]
    store.index.save()
    return runs


def print_status(console: Console, store: Store, layout: Layout = Layout.table) -> None:
    """Print every run of a store, and below the table the reasons of those that failed; or JSON."""
    runs = read_statuses(store)
    if layout is Layout.json:
        return print_rows(console, Listing([asdict(run) for run in runs]), layout)
    print_rows(console, Listing([_row(run) for run in runs], prose=["progress"], right=["seed", "top-1"]))
    for run in runs:
        if run.reason not in (None, NO_SUMS):
            console.print(reason_line(run))
    if unsure := sum(run.reason == NO_SUMS for run in runs):
        console.print(Text(f"{unsure:,} done with {NO_SUMS}"))
    if len(runs) > 1:
        console.print(count_line(runs), highlight=False)


def reason_line(run: RunStatus) -> Text:
    return Text(f"{run.key}: {run.reason}")


def count_line(runs: list[RunStatus]) -> str:
    """Return how many runs there are of each state."""
    counts = Counter(run.state for run in runs)
    return ", ".join(f"{counts[state]:,} {state}" for state in STATE_STYLES if counts[state])


def run_status(run: RunFolder, store: Store) -> RunStatus:
    """Read the state of a run; a file that cannot be read, or is not what was written, is the reason."""
    try:
        if not run.was_done:
            return _unfinished(run, run.state())
        found, unsure = store.summary(run), None if run.has_sums else NO_SUMS
    except StoreError as error:
        return RunStatus(run.key, "", "", "", None, "damaged", reason=str(error))
    progress = f"{found.epochs or '?'}/{found.epochs or '?'} epochs"
    names = found.label, found.pair, found.recipe
    return RunStatus(run.key, *names, found.seed, "done", progress, found.top1, reason=unsure)


def _unfinished(run: RunFolder, state: str) -> RunStatus:
    identity, holder = run.check_identity(), run.holder()
    names = run.label(), identity.pair, run.recipe_name()
    where = f"{holder.host}, {holder.device or 'process'} ({holder.pid})" if holder else None
    epochs = identity.recipe.get("epochs", "?")
    return RunStatus(run.key, *names, identity.seed, state, _progress(run, state, epochs), None, where, run.failure())


def _progress(run: RunFolder, state: str, epochs: str) -> str:
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
        "where": run.where,
        "recipe": run.recipe,
    }
