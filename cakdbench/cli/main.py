"""A benchmark suite for cross-architecture knowledge distillation."""

# Typer reads the options from the commands' signatures; torch is imported only by the commands that need it.

import codecs
import sys
import warnings
from typing import Any

import typer

from cakdbench.cli import (
    analyse,
    costs,
    data,
    methods,
    results,
    run,
    runs,
    speed,
    submissions,
    tapes,
    teachers,
    tune,
    upkeep,
)
from cakdbench.cli.options import errors, say
from cakdbench.utils.errors import CakdError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for commands in (run, tune, methods, results, runs, costs, speed, submissions, upkeep):
    app.add_typer(commands.app)
for name, group in {"teacher": teachers, "data": data, "analyse": analyse, "tape": tapes}.items():
    app.add_typer(group.app, name=name)


def main() -> None:
    """Entry point: what users can mend becomes one line and an exit code, without a traceback; so do warnings."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")  # Windows' code pages have no arrows
    with warnings.catch_warnings():  # the caller of `main` gets Python's way to show them back
        warnings.showwarning = _show_warning
        _run()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}", errors, style="yellow")


def _run() -> None:
    try:
        app()
    except CakdError as error:
        say(f"error: {error}", errors, style="red")
        sys.exit(error.exit_code)
    except OSError as error:  # a disk that fails where nothing can be done about it
        place = f"{error.filename}: " if error.filename else ""
        told = f"error: {place}{error.strerror or error}; nothing finished is lost, the same command goes on from here"
        say(told, errors, style="red")
        sys.exit(CakdError.exit_code)
    except SystemExit as leaving:
        if leaving.code == 130:  # Ctrl-C where nothing was listening for it
            errors.print("interrupted; the same command goes on from the last checkpoints", style="red")
        raise
