"""The commands about a store: status, clean, fsck."""

from pathlib import Path
from typing import Annotated

import typer

from cakdbench.cli.options import StoreDir, console, existing_store, say
from cakdbench.cli.tables import AsFormat, Layout
from cakdbench.utils.errors import StoreError, UsageError

app = typer.Typer()


@app.command()
def status(
    store: StoreDir = Path("runs"),
    format: AsFormat = Layout.table,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show what runs where and what has failed, until Ctrl-C.")
    ] = False,
) -> None:
    """Show every run of the store and its state."""
    from cakdbench.cli.status import print_status
    from cakdbench.store import Store

    existing_store(store)
    if watch:
        from cakdbench.cli.watch import watch as watch_store

        watch_store(console, Store(store))
    else:
        print_status(console, Store(store), format)


@app.command()
def clean(
    store: StoreDir = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """Remove what is left of failed and replaced runs, after asking: finished runs and those that go on stay."""
    from cakdbench.engine.upkeep import find_leftovers
    from cakdbench.store import Store

    found = find_leftovers(Store(existing_store(store)))
    for leftover in found:
        say(f"{leftover.size / 2**20:9.1f} MiB  {leftover.why}: {leftover.name}")
    if not found:
        return say(f"nothing is left of failed or replaced runs in {store}")
    total = sum(leftover.size for leftover in found) / 2**20
    say(f"{total:9.1f} MiB in all")
    if dry_run:
        return
    if not yes and not (console.is_interactive and console.input("Remove all of it? [y/N] ").lower() == "y"):
        raise UsageError("nothing was removed; --yes removes without asking")
    kept = [leftover.name for leftover in found if not leftover.remove()]
    for name in kept:
        say(f"still there: {name}: a process works on it or needs it, or the system does not let it go")
    say(f"removed: {len(found) - len(kept)} of {len(found)}")


@app.command()
def fsck(
    store: StoreDir = Path("runs"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be, and set the rest aside: run computes it again.")
    ] = False,
) -> None:
    """Read every file of the store and tell which are damaged; exit code 1 if any is left."""
    from cakdbench.engine.upkeep import check_store
    from cakdbench.store import Store

    left = checked = 0
    try:
        for finding in check_store(Store(existing_store(store)), repair):
            checked += 1
            for line in finding.lines:
                say(f"{finding.key}: {line}")
            left += not finding.is_sound
    except StoreError as error:
        raise StoreError(f"{error}; nothing else was checked") from error
    say(f"{checked} runs checked, {left} damaged" + (f": {_HINT}" if left and not repair else ""))
    raise typer.Exit(1 if left else 0)


_HINT = "the same `cakdbench run` mends or computes them again, as does --repair before it"
