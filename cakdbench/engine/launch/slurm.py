"""The launcher for Slurm, through submitit: a worker is a job of an array and computes one group."""

from __future__ import annotations

import hashlib
import math
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.dispatch import Dispatcher, assign, labour
from cakdbench.engine.options import RunOptions, to_json
from cakdbench.grid.plan import Cell
from cakdbench.store import write_atomic
from cakdbench.utils.errors import CakdError, UsageError, unknown
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

    def check(self, options: RunOptions) -> None:
        """Raise UsageError if no job can be made of the settings here."""
        with tempfile.TemporaryDirectory() as folder:
            _executor(Path(folder), self.settings, options)

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute the cells; see `Launcher.launch`. The jobs stay when the user stops."""
        assignment = assign(cells, harness, options)
        folder = assignment.options.store / FOLDER / grid_name(assignment)
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
        accepted: whether Slurm has taken jobs of this command. refused: what it has said since to others.
    """

    text: str
    executor: Any
    folder: Path
    processes: int = 1
    jobs: list[Any] = field(default_factory=list)
    accepted: bool = False
    refused: list[str] = field(default_factory=list)

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
        """Submit an array of jobs; one that Slurm refuses counts as lost, since it may be busy.

        Raises:
            UsageError: Slurm refuses the first, and nothing has been started.
        """
        try:
            self.jobs += self.executor.map_array(Labour(self.text, self.processes), range(count))
            self.accepted = True
        except (RuntimeError, OSError) as error:  # submitit's are RuntimeErrors
            if not self.accepted:
                raise UsageError(f"--launcher slurm: {_last_line(error)}") from error
            self.refused.append(_last_line(error))
        write_atomic(self._list, "\n".join(job.job_id for job in self.jobs).encode())

    def ended(self) -> list[str]:
        """Return why jobs were lost; raise what a job cannot go on with."""
        ended = [job for job in self.jobs if job.done()]
        self.jobs = [job for job in self.jobs if job not in ended]
        reasons, self.refused = self.refused, []
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
                job.cancel(check=False)  # it may have ended by now
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

        A signal saves the lanes first. The job then goes back into the queue, unless it was cancelled or interrupted.
        """
        requeue = next(filter(_is_handled, (signal.SIGUSR2, signal.SIGUSR1)), None)  # by submitit
        with GracefulInterrupt(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) as stop:
            error = labour(self.text, self.processes, number, stop)
        if stop.received is not None:
            told = stop.received in (signal.SIGUSR1, signal.SIGUSR2)
            goes_on = told or (stop.received == signal.SIGTERM and _is_kept())
            signal.raise_signal(requeue if goes_on and requeue else stop.received)
        return error

    def checkpoint(self, number: int) -> submitit.helpers.DelayedSubmission:
        """Return what a requeued job does: the same, from the last checkpoints."""
        return submitit.helpers.DelayedSubmission(self, number)


def _is_handled(number: int) -> bool:
    return callable(signal.getsignal(number))


def _is_kept() -> bool:
    """Return True if Slurm has this job run: one that `scancel` ends is completing when it gets its SIGTERM."""
    ask = ["squeue", "--noheader", "--format=%T", f"--jobs={submitit.JobEnvironment().job_id}"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout.strip() == "RUNNING"
    except (OSError, subprocess.SubprocessError):
        return False


def grid_name(assignment: Assignment) -> str:
    """Return a name that every command for the same grid finds: all of the options but which attempt it is.

    With other files, data or packages it is another: jobs of before cannot compute it.
    """
    options, place = assignment.options, assignment.place
    options = replace(options, computing=replace(options.computing, attempt=""))
    same = replace(assignment, options=options, place=place and replace(place, host="", folder=Path()))
    return hashlib.sha256(to_json(same).encode()).hexdigest()[:16]


def _executor(folder: Path, settings: dict[str, str], options: RunOptions) -> submitit.AutoExecutor:
    """Return an executor for jobs of one GPU, or of the threads of one process.

    Raises:
        UsageError: there is no Slurm here, or a setting is wrong.
    """
    cluster = settings.get("cluster", "slurm")
    if cluster not in JOBS:
        raise unknown("cluster", cluster, JOBS)
    gpu = not options.cpu
    cores = CORES_PER_GPU if gpu else options.threads
    numbers = {"name": "cakdbench", "timeout_min": MINUTES, "gpus_per_node": int(gpu), "cpus_per_task": cores}
    limits = {"slurm_max_num_timeout": REQUEUES, "local_max_num_timeout": REQUEUES}
    try:
        more = dict(_parameter(*setting) for setting in settings.items() if setting[0] != "cluster")
        executor = submitit.AutoExecutor(folder, cluster=cluster, **limits)
        executor.update_parameters(**numbers | more)
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise UsageError(f"--launcher slurm: {str(error).splitlines()[0]}") from error
    return executor


def _parameter(name: str, value: str) -> tuple[str, str | int | float]:
    if name == "time":
        return "timeout_min", slurm_minutes(value)
    if name == "mem_gb":
        return "mem_gb", float(value)
    return ALIASES.get(name, f"slurm_{name}"), int(value) if value.isdigit() else value


def slurm_minutes(text: str) -> int:
    """Return the minutes, rounded up, of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: it is none.
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in (*parts, *([days] if dash else []))):
        raise ValueError(f"time={text!r}: write minutes, or as Slurm D-HH:MM:SS, HH:MM:SS or D-HH")
    units = (60, 1, 1 / 60) if dash or len(parts) == 3 else (1, 1 / 60)
    numbers = zip((24 * 60, *units), map(int, (days or "0", *parts)))
    return max(1, math.ceil(sum(unit * number for unit, number in numbers)))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
