"""A session: names become a plan, the plan is looked into, estimated and run; for commands and notebooks alike.

Nothing here prints or asks: what happens is told to `Events`, results are returned, problems are raised.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from cakdbench.data.datasets import forget_datasets
from cakdbench.engine.estimate import Estimate, estimate
from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch import Launcher
from cakdbench.engine.launch.local import LocalLauncher
from cakdbench.engine.options import RunOptions
from cakdbench.engine.preview import Preview, make_preview
from cakdbench.engine.teachers import Teachers, verify_teacher
from cakdbench.grid.plan import Plan, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import default_recipe
from cakdbench.records import TeacherFacts
from cakdbench.store import Store
from cakdbench.train.events import Events, NoEvents
from cakdbench.train.runtime import Runtime
from cakdbench.utils.device import make_accelerator


@dataclass(frozen=True)
class TeacherCheck:
    """A teacher's verification, and the sha256 of its weights."""

    facts: TeacherFacts
    sha256: str


class Session:
    """A store, its teachers and a device, ready for the plan that the options name; its methods are registered.

    Args:
        events: told of what happens.
        stop: asked between two steps; once it is true, all lanes are saved and `Interrupted` is raised.

    Raises:
        UsageError: a name or a number in the options is wrong.
    """

    def __init__(self, options: RunOptions, events: Events | None = None, stop: Callable[[], bool] = lambda: False):
        forget_datasets()
        self.options = options
        self.accelerator = make_accelerator(options.precision, options.cpu, options.threads)
        self.runtime = Runtime(self.accelerator, options.computing, events or NoEvents(), stop)
        self.store = Store(options.store)
        self.teachers = Teachers(
            self.store, options.teacher_dir, options.settings, list(options.teacher_files), options.precision
        )
        self.harness = Harness(self.store, self.teachers, self.runtime)

    @cached_property
    def specs(self) -> list[PairSpec]:
        """Return the pairs that the options name."""
        return resolve_pairs(self.options.pairs, self.options.recipe)

    @cached_property
    def plan(self) -> Plan:
        options = self.options
        return make_plan(
            options.methods,
            self.specs,
            options.seeds,
            options.settings,
            options.precision,
            options.computing.data_dir,
        )

    @cached_property
    def preview(self) -> Preview:
        """Return the plan as it stood when this was first asked for."""
        return make_preview(self.harness, self.plan.cells)

    def require_ready(self) -> None:
        """Raise the first obstacle: missing data, a missing teacher, a batch that does not fit."""
        for obstacle in self.preview.obstacles:
            raise obstacle

    def estimate(self, measured: bool = False) -> Estimate | None:
        """Return how long one process takes for what is not done; None if nothing is left.

        Args:
            measured: time a step of every kind of run instead of counting.
        """
        cells = self.preview.left
        if not cells:
            return None
        records, _ = self.store.records()
        data_dir = self.options.computing.data_dir
        return estimate(cells, self.accelerator, data_dir=data_dir, records=records, measured=measured)

    def processes(self, jobs: int | None = None) -> int:
        """Return how many processes of this machine share the work: `jobs` or one per core of a CPU, never idle ones.

        A GPU, and a run that Accelerate has started in several processes, is one.
        """
        if jobs is None:
            alone_on_cpu = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
            jobs = len(os.sched_getaffinity(0)) // torch.get_num_threads() if alone_on_cpu else 1
        return max(1, min(jobs, self.preview.parts))

    def run(self, launcher: Launcher | None = None) -> Outcome:
        """Compute every cell of the plan that is not done.

        Args:
            launcher: where the processes come from; None for this machine's, as many as are of use.

        Raises:
            CakdError: data or a teacher are missing or wrong, the store cannot be written, or the user stopped.
        """
        self.require_ready()
        launcher = launcher or LocalLauncher(self.processes())
        return launcher.launch(self.plan.cells, self.harness, self.options)

    def train_teacher(self, model: str, dataset: str) -> Outcome | None:
        """Train a teacher as its entry says; None for one that comes as a file."""
        cell = self.teachers.training_cell(model, dataset)
        return self.harness.run([cell]) if cell else None

    def check_teacher(self, model: str, dataset_name: str) -> TeacherCheck:
        """Evaluate a teacher as before a run.

        Raises:
            TeacherError: it is missing, or not what its entry says.
        """
        dataset = self.harness.dataset(dataset_name)
        cell = self.teachers.training_cell(model, dataset_name)
        kind = model_kind(self.teachers.entry(model, dataset_name).zoo_model)
        recipe = cell.recipe if cell else default_recipe(dataset_name, kind)
        teacher = self.teachers.load(model, dataset, recipe)
        return TeacherCheck(verify_teacher(teacher, dataset, recipe, self.runtime), teacher.sha256)
