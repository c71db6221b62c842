"""The launcher for one machine: this process computes, and so do silent workers beside it, each on a GPU of its own."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import torch

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment, local_methods, modules_of
from cakdbench.engine.options import RunOptions, to_json
from cakdbench.engine.packing import memory_limit
from cakdbench.engine.share import Share
from cakdbench.grid.plan import Cell
from cakdbench.train.events import Events
from cakdbench.train.runtime import Options, gpu_workers
from cakdbench.train.trainer import Interrupted
from cakdbench.utils.device import visible_gpus


@dataclass(frozen=True)
class LocalLauncher:
    """Computes in `processes` processes of this machine, this one among them."""

    processes: int = 1

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute the cells; see `Launcher.launch`. The workers end with this call, or with this process."""
        processes = self.usable_processes(cells, harness.runtime.events)
        on_gpus = harness.accelerator.device.type == "cuda"
        gpus = visible_gpus(options.gpus) if on_gpus else []
        if gpus:
            options = replace(options, computing=share_machine(options.computing, processes, len(gpus)))
            harness.runtime = replace(harness.runtime, options=options.computing)
        assignment = Assignment(
            replace(options, gpus=()),
            Share(processes),
            parent=os.getpid(),
            modules=modules_of(cells),
        )
        with workers(assignment, processes - 1, harness.runtime.events, gpus):
            return harness.run(cells, Share(processes))

    def usable_processes(self, cells: list[Cell], events: Events) -> int:
        """Return how many processes can work: one, where methods are known to this one alone."""
        local = local_methods(cells)
        if local and self.processes > 1:
            events.say(f"one process works: others cannot see {', '.join(local)}, which no file or package defines")
        return 1 if local else self.processes


def share_machine(options: Options, processes: int, gpus: int) -> Options:
    """Return the options of processes that share the cores of a machine and, where they are more, its GPUs."""
    if options.workers is None:
        options = replace(options, workers=gpu_workers(processes))
    limit = memory_limit(torch.device("cuda"), None)
    if options.memory is None and limit and processes > gpus:
        options = replace(options, memory=limit / math.ceil(processes / gpus) / 1e9)
    return options


ENDED_ON_REQUEST = (0, Interrupted.exit_code, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of workers that came to the end of the work, or were asked to stop."""


@contextlib.contextmanager
def workers(
    assignment: Assignment, count: int, events: Events, gpus: Sequence[str] = ()
) -> Iterator[list[subprocess.Popen]]:
    """Start `count` workers; they save their work and end when the block is left.

    Args:
        gpus: names for CUDA_VISIBLE_DEVICES, one a worker and in turn; the first is this process's.
    """
    with contextlib.ExitStack() as logs:
        outputs = [logs.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        places = [_environment(gpus, number) for number in range(1, count + 1)]
        shares = [replace(assignment.share, first=number) for number in range(1, count + 1)]
        assignments = [replace(assignment, share=share) for share in shares]
        processes = list(map(_start, assignments, outputs, places))
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


def _environment(gpus: Sequence[str], number: int) -> dict[str, str]:
    """Return the environment of a worker, which sees one GPU, if there is any."""
    return {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})}


def _start(assignment: Assignment, output: IO[str], environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "cakdbench.engine.launch.worker", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True, env=environment)
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
