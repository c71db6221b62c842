"""The launcher for a Ray cluster: a worker is a task that needs one GPU, or a share of one, or CPUs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.dispatch import Dispatcher, assign, labour
from cakdbench.engine.options import RunOptions, from_json, to_json
from cakdbench.grid.plan import Cell
from cakdbench.train.runtime import gpu_workers
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.interrupt import GracefulInterrupt

CONNECT_SECONDS = 10
SAVE_SECONDS = 120
"""Time that workers have to save their lanes in."""
GONE = (NodeDiedError, TaskUnschedulableError)
"""What Ray says of a task for a node that is no more."""


@dataclass(frozen=True)
class RayLauncher:
    """Computes in tasks of a Ray cluster; this process only watches.

    Attributes:
        address: of the cluster, `auto` or HOST:PORT; None starts one on this machine, for this call.
        jobs: tasks at a time at most.
        gpu_share: of a GPU that a task needs, where the cluster has GPUs.
    """

    address: str | None = None
    jobs: int | None = None
    gpu_share: float = 1.0

    def launch(self, cells: list[Cell], harness: Harness, options: RunOptions) -> Outcome:
        """Compute the cells; see `Launcher.launch`."""
        assignment = assign(cells, harness, options)
        with _connected(self.address):
            works = assignment, replace(assignment, verify=True)
            crew, verifier = (RayCrew(to_json(work), self._needs(options), self.jobs) for work in works)
            crew.ask_nodes()
            try:
                return Dispatcher(crew, verifier, harness, self.jobs, assignment.said).run(cells)
            finally:
                for workers in (crew, verifier):
                    workers.leave()

    def _needs(self, options: RunOptions) -> dict[str, float]:
        """Return what a worker needs, in Ray's words."""
        if ray.cluster_resources().get("GPU") and not options.cpu:
            return {"num_cpus": 1, "num_gpus": self.gpu_share}
        return {"num_cpus": options.threads, "num_gpus": 0}


@dataclass
class RayCrew:
    """Workers that are tasks of Ray.

    Attributes:
        text: their assignment, as JSON.
        needs: of each: `num_cpus`, `num_gpus`.
        jobs: at a time at most; None for all that the nodes can run.
    """

    text: str
    needs: dict[str, float]
    jobs: int | None = None
    tasks: list[Any] = field(default_factory=list)

    def ask_nodes(self) -> None:
        """Let every node that can work look whether it has what it takes; one that is lost meanwhile is left out.

        Raises:
            UsageError: one has not, or there is none.
        """
        nodes = [node for node in ray.nodes() if _places(node, self.needs)]
        if not nodes:
            raise UsageError(f"no node of the Ray cluster has what a worker needs: {self.needs}")
        ask = ray.remote(_check)
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        asked = [ask.options(num_cpus=0, max_retries=3, scheduling_strategy=p).remote(self.text) for p in places]
        for node, answer in zip(nodes, asked):
            try:
                error = ray.get(answer)
            except GONE:
                continue
            except RayError as lost:
                raise UsageError(f"{node['NodeManagerHostname']} cannot run cakdbench: {_reason(lost)}") from lost
            if error:
                raise error

    def places(self) -> int:
        """Return how many tasks the nodes of now can run at a time."""
        return sum(_places(node, self.needs) for node in ray.nodes())

    def at_work(self) -> int:
        """Count the tasks that have not ended."""
        return len(self.tasks)

    def start(self, count: int) -> None:
        """Hand tasks to Ray, which spreads them over the nodes."""
        task = as_task(_labour, self.needs).options(scheduling_strategy="SPREAD")
        first, processes = len(self.tasks), max(1, min(self.places(), self.jobs or self.places()))
        self.tasks += [task.remote(self.text, processes, number, self.needs) for number in range(first, first + count)]

    def ended(self) -> list[str]:
        """Return why tasks were lost; raise what a task cannot go on with."""
        ended, self.tasks = ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0) if self.tasks else ([], [])
        reasons = []
        for task in ended:
            try:
                error = ray.get(task)
            except RayError as lost:
                reasons.append(_reason(lost))
            else:
                if error:
                    raise error
        return reasons

    def leave(self) -> str:
        """Let all tasks save their lanes and end."""
        for task in self.tasks:
            ray.cancel(task)  # as Ctrl-C, in a task that runs
        if self.tasks:
            ray.wait(self.tasks, num_returns=len(self.tasks), timeout=SAVE_SECONDS)
        self.tasks = []
        return "the same command goes on from here"


def as_task(function: Callable[..., Any], needs: dict[str, Any]) -> Any:
    """Return a task of Ray. On a GPU its process ends with it: one that has begun to use a GPU cannot take another.

    On CPUs the process stays for the next one, which is spared its imports.
    """
    return ray.remote(max_calls=1 if needs["num_gpus"] else 0, max_retries=0, **needs)(function)


def _labour(text: str, processes: int, first: int, needs: dict[str, float]) -> CakdError | None:
    workers = gpu_workers(min(processes, _places_here(needs))) if needs["num_gpus"] else None
    with GracefulInterrupt() as stop:
        return labour(text, processes, first, stop, workers)


def _check(text: str) -> UsageError | None:
    place = from_json(Assignment, text).place
    try:
        if place:
            place.check()
    except UsageError as error:
        return error
    return None


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless the caller is connected already."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        how["include_dashboard"] = False
    try:
        if address and address != "auto":
            socket.create_connection(_host_and_port(address), CONNECT_SECONDS).close()  # Ray would try for minutes
        ray.init(address or "local", **how)
    except (OSError, ValueError, RuntimeError) as error:
        hint = "`ray start --head` starts one; without --ray-address one is started for this command"
        raise UsageError(f"no Ray cluster at {address or 'this machine'} ({_reason(error)}): {hint}") from error
    try:
        with contextlib.suppress(ValueError):  # outside of the main thread nobody sets handlers, nor does Ray
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _places(node: dict[str, Any], needs: dict[str, float]) -> int:
    """Return how many tasks a node can run at a time; a task's share of a GPU is of one GPU."""
    has = node["Resources"] if node["Alive"] else {}
    places = int(has.get("CPU", 0) // needs["num_cpus"])
    if share := needs["num_gpus"]:
        places = min(places, int(has.get("GPU", 0)) * int(1 / share + 1e-9))
    return places


def _places_here(needs: dict[str, float]) -> int:
    """Return how many tasks the node of this one can run at a time."""
    own = ray.get_runtime_context().get_node_id()
    return max(1, sum(_places(node, needs) for node in ray.nodes() if node["NodeID"] == own))


def _reason(error: BaseException) -> str:
    told = error.cause if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
