"""The launcher for Slurm, through submitit: a worker is a job of an array and computes one group."""

from __future__ import annotations

import hashlib
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.dispatch import Dispatcher, assign, labour
from cakdbench.engine.options import RunOptions, to_json
from cakdbench.grid.plan import Cell
from cakdbench.store import write_atomic
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.interrupt import GracefulInterrupt

FOLDER = ".slurm"
"""In the store: the jobs' files and logs."""
MINUTES, CORES_PER_GPU = 240, 8
REQUEUES = 10_000
"""A job that comes to its time limit goes on in the queue, from its checkpoints: as often as it takes."""
ALIASES = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "name": "name", "nodes": "nodes", "mem_gb": "mem_gb"}
"""Settings that submitit knows for every kind of cluster; the others are Slurm's own."""
JOBS = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}


@dataclass(frozen=True)
class SlurmLauncher:
    """Computes in jobs of Slurm; this process only submits and watches.

    Attributes:
        settings: of the jobs: `partition`, `time` (minutes, or as Slurm writes it), `gpus`, `cpus`, `mem_gb`, and
            whatever submitit knows of Slurm; `cluster=local` runs the jobs as processes of this machine.
        jobs: at a time at most; None for one a group.
    """

    settings: dict[str, str]
    jobs: int | None = None

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute the cells; see `Launcher.launch`. The jobs stay when the user stops."""
        assignment = assign(cells, harness, options)
        folder = assignment.options.store / FOLDER / grid_name(assignment.options)
        works = (folder, assignment), (folder / "verify", replace(assignment, verify=True))
        crew, verifier = (
            SlurmCrew(to_json(work), _executor(place, self.settings, options), place, self.jobs or 1)
            for place, work in works
        )
        for workers in (crew, verifier):
            workers.find_earlier(JOBS[self.settings.get("cluster", "slurm")])
        outcome = Dispatcher(crew, verifier, harness, self.jobs, assignment.said).run(cells)
        crew.cancel_queued()
        return outcome


@dataclass
class SlurmCrew:
    """Workers that are jobs of Slurm.

    Attributes:
        text: their assignment, as JSON.
        folder: of the jobs' files; the same for the same grid, so that the same command finds them again.
        processes: that share the work: one takes a whole group.
    """

    text: str
    executor: Any
    folder: Path
    processes: int = 1
    jobs: list[Any] = field(default_factory=list)

    def find_earlier(self, kind: Any) -> None:
        """Take over the jobs of an earlier command that have not ended."""
        ids = self._list.read_text().split() if self._list.exists() else []
        self.jobs = [job for id in ids if not (job := kind(self.folder, id)).done()]

    def places(self) -> int:
        """Return 0: how many jobs run at a time is Slurm's decision."""
        return 0

    def at_work(self) -> int:
        """Count the jobs in the queue and at work."""
        return len(self.jobs)

    def start(self, count: int) -> None:
        """Submit an array of jobs."""
        self.jobs += self.executor.map_array(Labour(self.text, self.processes), range(count))
        write_atomic(self._list, "\n".join(job.job_id for job in self.jobs).encode())

    def ended(self) -> list[str]:
        """Return why jobs were lost; raise what a job cannot go on with."""
        ended = [job for job in self.jobs if job.done()]
        self.jobs = [job for job in self.jobs if job not in ended]
        reasons = []
        for job in ended:
            if lost := job.exception():
                reasons.append(f"job {job.job_id}: {_last_line(lost)}")
            elif error := job.result():
                raise error
        return reasons

    def leave(self) -> str:
        """Leave the jobs to Slurm."""
        ids = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in self.jobs))
        return f"{len(self.jobs)} jobs go on; the same command watches them again, `scancel {ids}` ends them"

    def cancel_queued(self) -> None:
        """Cancel jobs that would find nothing to do; those at work end by themselves."""
        for job in self.jobs:
            if job.state == "PENDING":
                job.cancel()
        self._list.unlink(missing_ok=True)

    @property
    def _list(self) -> Path:
        return self.folder / "jobs.txt"


@dataclass(frozen=True)
class Labour:
    """The work of a job; submitit keeps it in a file, and calls it again in a job that was requeued."""

    text: str
    processes: int

    def __call__(self, number: int) -> CakdError | None:
        """Compute a group, the job's `number` of those left.

        A signal saves the lanes first, and then does what submitit does: requeue, or end.
        """
        usual = [number for number in (signal.SIGUSR1, signal.SIGUSR2) if callable(signal.getsignal(number))]
        with GracefulInterrupt(signal.SIGINT, signal.SIGTERM, *usual) as stop:
            error = labour(self.text, self.processes, number, stop)
        if stop.received is not None:
            signal.raise_signal(stop.received)
        return error

    def checkpoint(self, number: int) -> submitit.helpers.DelayedSubmission:
        """Return what a requeued job does: the same, from the last checkpoints."""
        return submitit.helpers.DelayedSubmission(self, number)


def grid_name(options: RunOptions) -> str:
    """Return a name that every command for the same grid finds: all of the options but which attempt it is."""
    same = replace(options, computing=replace(options.computing, attempt=""))
    return hashlib.sha256(to_json(same).encode()).hexdigest()[:16]


def _executor(folder: Path, settings: dict[str, str], options: RunOptions) -> submitit.AutoExecutor:
    """Return an executor for jobs of one GPU, or of the threads of one process.

    Raises:
        UsageError: there is no Slurm here, or a setting is wrong.
    """
    gpu = not options.cpu
    cores = CORES_PER_GPU if gpu else options.threads
    numbers = {"name": "cakdbench", "timeout_min": MINUTES, "gpus_per_node": int(gpu), "cpus_per_task": cores}
    more = dict(_parameter(*setting) for setting in settings.items() if setting[0] != "cluster")
    limits = {"slurm_max_num_timeout": REQUEUES, "local_max_num_timeout": REQUEUES}
    try:
        executor = submitit.AutoExecutor(folder, cluster=settings.get("cluster", "slurm"), **limits)
        executor.update_parameters(**numbers | more)
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise UsageError(f"--launcher slurm: {str(error).splitlines()[0]}") from error
    return executor


def _parameter(name: str, value: str) -> tuple[str, str | int]:
    number: str | int = int(value) if value.isdigit() else value
    if name == "time" and isinstance(number, int):
        return "timeout_min", number
    return ALIASES.get(name, f"slurm_{name}"), number


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
