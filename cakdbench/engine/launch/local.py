"""The launcher for one machine: this process computes, and so do silent workers beside it, each on a GPU of its own."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import torch

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment, local_methods, modules_of
from cakdbench.engine.launch.said import Hearing
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
        runtime = harness.runtime
        processes = self.usable_processes(cells, runtime.events)
        on_gpus = harness.accelerator.device.type == "cuda"
        gpus = visible_gpus(options.gpus) if on_gpus else []
        if gpus:
            options = replace(options, computing=share_machine(options.computing, processes, len(gpus)))
            harness.runtime = replace(runtime, options=options.computing)
        assignment = Assignment(
            replace(options, gpus=()),
            Share(processes),
            parent=os.getpid(),
            modules=modules_of(cells),
        )
        with workers(assignment, processes - 1, runtime.events, gpus) as crew:

            def stop() -> bool:
                if not (stops := runtime.stop()):
                    crew.look()  # here, and not in a thread: rendering processes are forked from this one
                return stops

            harness.runtime = replace(harness.runtime, stop=stop)
            try:
                return harness.run(cells, Share(processes))
            finally:
                harness.runtime = runtime

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
MOST_LOST = 5
"""Workers that may be lost in a row, besides one for every place, before they have trained for long enough to save."""
LOOK_SECONDS = 1.0
SAVE_SECONDS = 300
"""Time that workers have to save their lanes in; an evaluation comes to its end before."""
OF_A_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun, by which a worker would wait for processes of another run."""


@dataclass
class Worker:
    """A process beside this one.

    Attributes:
        output: what it prints.
        started: by the monotonic clock.
    """

    number: int
    process: subprocess.Popen
    output: IO[str]
    started: float = field(default_factory=time.monotonic)

    @property
    def is_lost(self) -> bool:
        """Return True if it has ended, and neither at the end of the work nor on request."""
        return self.process.poll() not in (None, *ENDED_ON_REQUEST)

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"

    def reason(self) -> str:
        """Return how it ended, and what it said last."""
        code = self.process.returncode
        how = f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
        self.output.seek(0)
        lines = self.output.read().strip().splitlines() or ["it says nothing"]
        return f"{how}: {lines[-1]}"


class Crew:
    """Workers of this machine. One that is lost is told of at once, and another takes its place.

    Args:
        assignment: of all of them, but for their numbers.
        gpus: names for CUDA_VISIBLE_DEVICES, one a worker and in turn; the first is this process's.
        folder: for what they say.
    """

    def __init__(self, assignment: Assignment, count: int, events: Events, gpus: Sequence[str], folder: Path):
        self.assignment = replace(assignment, said=folder)
        self.gpus = gpus
        self.events = events
        self.hearing = Hearing(folder, events)
        self.workers = list(map(self._start, range(1, count + 1)))
        self._most_lost = MOST_LOST + count
        self._lost = 0
        self._looked = time.monotonic()

    def _start(self, number: int) -> Worker:
        assignment = replace(self.assignment, share=replace(self.assignment.share, first=number))
        output = tempfile.TemporaryFile("w+")
        return Worker(number, _process(assignment, output, _environment(self.gpus, number)), output)

    def look(self) -> None:
        """Tell what workers have said, and replace those that were lost; at most once a second."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self.hearing.hear()
        for worker in [worker for worker in self.workers if worker.is_lost]:
            self.workers.remove(worker)
            if self._goes_on(worker):
                self.workers.append(self._start(worker.number))
            worker.output.close()

    def _goes_on(self, worker: Worker) -> bool:
        """Tell of a worker that was lost; False if too many were that did not live to save what they trained."""
        lived = time.monotonic() - worker.started
        self._lost = 1 if lived > self.assignment.options.computing.checkpoint_seconds else self._lost + 1
        again = self._lost <= self._most_lost
        then = "another takes its place" if again else f"{self._lost} were lost in a row, and no other is started"
        self.events.say(f"{worker} was lost ({worker.reason()}); its runs go on from their last checkpoints; {then}")
        return again

    def end(self) -> None:
        """Let the workers save their lanes and end; one that does not is killed."""
        for worker in self.workers:
            if worker.is_lost:
                self.events.say(f"{worker} was lost ({worker.reason()}); what it left was computed here")
            worker.process.terminate()
        end = time.monotonic() + SAVE_SECONDS
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.events.say(f"{worker} did not end in {SAVE_SECONDS} s and is killed; its checkpoints are there")
                worker.process.kill()
                worker.process.wait()
            worker.output.close()
        self.hearing.hear()
        self.hearing.forget()


@contextlib.contextmanager
def workers(assignment: Assignment, count: int, events: Events, gpus: Sequence[str] = ()) -> Iterator[Crew]:
    """Start `count` workers; they save their work and end when the block is left. See `Crew`."""
    crew = Crew(assignment, count, events, gpus, Path(tempfile.mkdtemp()))
    try:
        yield crew
    finally:
        crew.end()


def _environment(gpus: Sequence[str], number: int) -> dict[str, str]:
    """Return the environment of a worker, which sees one GPU, if there is any, and is a run of its own."""
    own = {name: value for name, value in os.environ.items() if name not in OF_A_LAUNCH}
    return own | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})


def _process(assignment: Assignment, output: IO[str], environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "cakdbench.engine.launch.worker", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True, env=environment)
    assert process.stdin is not None  # it is a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin:  # one that has died already says why in its output
        process.stdin.write(to_json(assignment))
    return process
