"""The commands about single runs of a store: log, predict, export."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.options import StoreDir, console
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.store import RunFolder

app = typer.Typer()
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, its key, or the start of the key.")]

POLL_SECONDS = 0.5


@app.command()
def log(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing while the run goes on.")] = False,
    store: StoreDir = Path("runs"),
) -> None:
    """Print how a run goes, or went: its losses, accuracies, speed and the time left."""
    from cakdbench.engine.run_log import log_file
    from cakdbench.store import Store

    folder = Store(store).find(run)
    path = log_file(folder.path)
    if not path.is_file():
        reason = folder.failure() or "it has not begun, or is of an earlier cakdbench"
        raise UsageError(f"{folder.key} has no log: {reason}")
    _print_log(path, folder if follow else None)


def _print_log(path: Path, running: "RunFolder | None") -> None:
    """Print a log; with `running` until that run runs no more."""
    with open(path, encoding="utf-8") as file:
        going = True
        while going:
            going = running is not None and running.state() == "running"
            console.print(file.read(), end="", markup=False, highlight=False, soft_wrap=True)
            time.sleep(POLL_SECONDS if going else 0)
