"""The launcher for one machine: this process computes, and so do silent workers beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment, local_methods, modules_of
from cakdbench.engine.options import RunOptions, to_json
from cakdbench.engine.share import Share
from cakdbench.grid.plan import Cell
from cakdbench.train.events import Events
from cakdbench.train.trainer import Interrupted


@dataclass(frozen=True)
class LocalLauncher:
    """Computes in `processes` processes of this machine, this one among them."""

    processes: int = 1

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute the cells; see `Launcher.launch`. The workers end with this call, or with this process."""
        processes = self.usable_processes(cells, harness.runtime.events)
        assignment = Assignment(
            options, Share(processes, from_the_end=True), parent=os.getpid(), modules=modules_of(cells)
        )
        with workers(assignment, processes - 1, harness.runtime.events):
            return harness.run(cells, Share(processes))

    def usable_processes(self, cells: list[Cell], events: Events) -> int:
        """Return how many processes can work: one, where methods are known to this one alone."""
        local = local_methods(cells)
        if local and self.processes > 1:
            events.say(f"one process works: others cannot see {', '.join(local)}, which no file or package defines")
        return 1 if local else self.processes


ENDED_ON_REQUEST = (0, Interrupted.exit_code, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of workers that came to the end of the work, or were asked to stop."""


@contextlib.contextmanager
def workers(assignment: Assignment, count: int, events: Events) -> Iterator[list[subprocess.Popen]]:
    """Start `count` workers; they save their work and end when the block is left."""
    with contextlib.ExitStack() as logs:
        outputs = [logs.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        processes = [_start(assignment, output) for output in outputs]
        try:
            yield processes
        finally:
            ended = [process.poll() is not None for process in processes]
            for process in processes:
                process.terminate()
            for process, output, by_itself in zip(processes, outputs, ended):
                code = process.wait()
                if by_itself or os.name != "nt":  # Windows ends a process with the exit code of an error
                    _report(code, output, events)


def _start(assignment: Assignment, output: IO[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "cakdbench.engine.launch.worker", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True)
    assert process.stdin is not None  # it is a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin:  # one that has died already says why in its output
        process.stdin.write(to_json(assignment))
    return process


def _report(code: int, output: IO[str], events: Events) -> None:
    """Say why a worker ended that was not asked to; what it left was computed here."""
    if code in ENDED_ON_REQUEST:
        return
    output.seek(0)
    lines = output.read().strip().splitlines() or ["it says nothing"]
    events.say(f"a worker ended by itself (exit code {code}): {lines[-1]}")
