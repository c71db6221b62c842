"""The commands about tapes of teachers: tape list, tape drop."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cakdbench.cli.options import StoreDir, console
from cakdbench.cli.tables import AsFormat, Layout, Listing, print_rows
from cakdbench.utils.errors import UsageError
from cakdbench.utils.sizes import size_text

app = typer.Typer(no_args_is_help=True, help="List and drop the recorded outputs of teachers (run --tape).")


@app.command("list")
def list_tapes(store: StoreDir = Path("runs"), format: AsFormat = Layout.table) -> None:
    """List the tapes of the store: of which teacher and seed, how many epochs, how large."""
    from cakdbench.engine.tapes import StoredTape, stored_tapes

    def row(tape: StoredTape) -> dict[str, Any]:
        about = tape.about
        facts: dict[str, Any] = {name: about.get(name) for name in ("seed", "precision")}
        device = about.get("device", {}).get("name")
        size = {"epochs": tape.epochs, "parts": list(tape.parts), "MB": round(tape.size / 1e6, 1)}
        return {"tape": tape.name, **facts, "device": device, **size}

    listing = Listing([row(tape) for tape in stored_tapes(store)], right=["seed", "epochs", "MB"], title="tapes")
    print_rows(console, listing, format)


@app.command()
def drop(
    names: Annotated[list[str], typer.Argument(help="Tapes, or the starts of their names.", show_default=False)] = [],
    all: Annotated[bool, typer.Option("--all", help="All tapes of the store.")] = False,
    store: StoreDir = Path("runs"),
) -> None:
    """Remove tapes; what they are of is recorded again when a run with --tape needs it."""
    from cakdbench.engine.tapes import drop_tape, stored_tapes

    if all == bool(names):
        raise UsageError("name the tapes to drop, as `cakdbench tape list` shows them, or give --all")
    dropped = [drop_tape(store, name) for name in names or [tape.name for tape in stored_tapes(store)]]
    console.print(f"dropped {len(dropped)} tapes, {size_text(sum(dropped))}", highlight=False)
