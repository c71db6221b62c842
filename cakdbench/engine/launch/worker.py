"""A process that computes its share of a grid and shows nothing: `python -m cakdbench.engine.launch.worker FILE`.

FILE holds an `Assignment` as JSON; `-` stands for the standard input. Exit codes: 0 at the end of the work (the store
says what has failed), 130 interrupted, otherwise those of the command's errors.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cakdbench.engine.harness import Outcome
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.said import Sayings
from cakdbench.engine.options import from_json
from cakdbench.engine.session import Session
from cakdbench.registry import load_files
from cakdbench.utils.errors import CakdError
from cakdbench.utils.interrupt import GracefulInterrupt


def work_through(assignment: Assignment, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Compute a share of the cells, beside other processes on the same store.

    Raises:
        CakdError: the work cannot be read or done here, or was interrupted.
    """
    if assignment.place:
        assignment.place.check()
        if assignment.place.folder.is_dir():
            os.chdir(assignment.place.folder)  # for relative paths inside of settings and names
    for name in assignment.modules:
        importlib.import_module(name)
    load_files(assignment.options.method_files, assignment.options.model_files)
    events = Sayings(assignment.said) if assignment.said else None
    session = Session(assignment.options, events, lambda: stop() or _orphaned(assignment.parent))
    harness, cells = session.harness, session.plan.cells
    if assignment.place:
        assignment.place.check_data(harness.dataset)
    if assignment.verify:
        harness.verify_teachers(harness.tasks(list(filter(None, map(harness.ground, cells)))))
        return Outcome()
    return harness.run(cells, assignment.share)


def _orphaned(parent: int | None) -> bool:
    """Return True once the parent is gone, in whatever way: orphans are given another one, but on Windows."""
    return parent is not None and (os.getppid() != parent or not psutil.pid_exists(parent))


def main(name: str) -> int:
    """Do what a file says; returns the exit code."""
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    try:
        with GracefulInterrupt() as stop:
            work_through(from_json(Assignment, text), stop)
    except CakdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a disk that fails
        print(f"error: {error}", file=sys.stderr)
        return CakdError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
