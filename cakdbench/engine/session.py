"""A session: names become a plan, the plan is looked into, estimated and run; for commands and notebooks alike.

Nothing here prints or asks: what happens is told to `Events`, results are returned, problems are raised.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cakdbench.data.datasets import forget_datasets, register_datasets
from cakdbench.engine.estimate import Estimate, estimate, none_taped
from cakdbench.engine.gate import verify_teacher
from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.launcher import Launcher
from cakdbench.engine.launch.local import LocalLauncher
from cakdbench.engine.memory import Peak, predict_peaks
from cakdbench.engine.options import RunOptions
from cakdbench.engine.packing import Load, Room, divide, memory_limit
from cakdbench.engine.preview import Preview, make_preview
from cakdbench.engine.run_teachers import known_pair
from cakdbench.engine.speed.saved import saved_speeds
from cakdbench.engine.tape_plan import TapedEpochs, TapePlan, plan_tapes
from cakdbench.engine.teachers import Teachers
from cakdbench.engine.work import Work, list_work
from cakdbench.grid.experiments import Experiment, load_experiment
from cakdbench.grid.plan import Plan, in_order, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.grid.teacher_file import OWN_FILE
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import default_recipe, load_recipe
from cakdbench.records import TeacherFacts
from cakdbench.store import Store
from cakdbench.train.events import Events, NoEvents
from cakdbench.train.runtime import Runtime
from cakdbench.utils.device import make_accelerator, usable_cores, visible_gpus
from cakdbench.utils.errors import CakdError, TeacherError, UsageError


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
        for path in options.dataset_files:
            register_datasets(path)
        self.options = options
        self.accelerator = make_accelerator(options.precision, options.cpu, options.threads, options.gpus)
        self.runtime = Runtime(self.accelerator, options.computing, events or NoEvents(), stop)
        self.store = Store(options.store)
        self.teachers = Teachers(
            self.store,
            options.teacher_dir,
            options.settings,
            list(options.teacher_files),
            options.precision,
            options.computing.download,
        )
        self.harness = Harness(self.store, self.teachers, self.runtime)

    @cached_property
    def specs(self) -> list[PairSpec]:
        """Return the pairs that the options name."""
        if experiment := self.experiment:
            return [spec for specs in experiment.grids().values() for spec in specs]
        specs = resolve_pairs(self.options.pairs, self.options.recipe)
        return [replace(spec, pair=known_pair(self.store, spec.pair)) for spec in specs]

    @cached_property
    def experiment(self) -> Experiment | None:
        """Return the experiment that the options name, if they do."""
        options = self.options
        if not options.experiment:
            return None
        if options.methods or options.recipe or options.settings.methods or options.settings.grids:
            raise UsageError(
                "an experiment has its own methods, pairs and recipes: --set takes recipe.* and teacher.* beside it"
            )
        return load_experiment(options.experiment, options.tiny)

    @cached_property
    def plan(self) -> Plan:
        if not self.experiment:
            return self.plan_of(self.options.methods, self.specs)
        plans = [self.plan_of(labels, specs, always=()) for labels, specs in self.experiment.grids().items()]
        return Plan(in_order(c for plan in plans for c in plan.cells), [r for plan in plans for r in plan.refusals])

    def plan_of(self, methods: Iterable[str], specs: Iterable[PairSpec], **more: Any) -> Plan:
        """Return the plan of other methods and pairs; `more` as `make_plan` takes it."""
        options = self.options
        return make_plan(
            methods,
            specs,
            options.seeds,
            options.settings,
            options.precision,
            options.computing.data_dir,
            options.computing.download,
            {name: entry.image_size for name, entry in self.teachers.entries.items() if entry.image_size},
            tunings=options.tunings,
            **more,
        )

    @cached_property
    def preview(self) -> Preview:
        """Return the plan as it stood when this was first asked for."""
        return make_preview(self.harness, self.plan.cells)

    def require_ready(self) -> None:
        """Raise the first obstacle: missing data, a missing teacher, a batch that does not fit, no room for tapes."""
        for obstacle in self.preview.obstacles:
            raise obstacle
        if self.tapes:
            self.tapes.require_room(self.store.root)

    @cached_property
    def tapes(self) -> TapePlan | None:
        """Return what of the teachers' outputs is still to be recorded; None without tape."""
        return plan_tapes(self.harness, self.preview.left) if self.options.computing.tape else None

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
        timed = saved_speeds(self.store.root)
        taped = TapedEpochs(self.harness) if self.options.computing.tape else none_taped
        place = cells, self.accelerator
        return estimate(*place, data_dir=data_dir, records=records, timed=timed, measured=measured, taped=taped)

    def predict_peaks(self, seconds: float = math.inf) -> tuple[list[tuple[Work, Peak | None]], int]:
        """Return the memory that each kind of run that is not done will take alone; see `memory.predict_peaks`."""
        return predict_peaks(list_work(self.preview.left, self.options.computing.data_dir), seconds)

    def passes(self, peaks: Iterable[tuple[Work, Peak | None]]) -> dict[str, list[list[str]]]:
        """Return how students that memory keeps apart train by turns: the groups of a seed, by pair and recipe.

        Args:
            peaks: of kinds of runs, as predicted.
        """
        computing = self.options.computing
        room = Room(computing.max_lanes, memory=memory_limit(self.accelerator.device, computing.memory))
        loads: dict[str, dict[str, Load]] = {}
        for work, peak in peaks:
            cell = work.cell
            name = f"{cell.pair.teacher} @ {cell.pair.dataset}, {cell.recipe.name}"
            loads.setdefault(name, {})[f"{cell.label} > {cell.pair.student}"] = Load(peak=peak)
        return {name: divide(group, room) for name, group in loads.items() if room.memory is not None}

    def processes(self, jobs: int | None = None) -> int:
        """Return how many processes of this machine share the work, never idle ones.

        `jobs`, or one per GPU, or one per core of a CPU; one where Accelerate has started several for one run.

        Raises:
            UsageError: it has, and `jobs` asks for more.
        """
        if jobs and jobs > 1 and self.accelerator.num_processes > 1:
            raise UsageError("--jobs: accelerate launch has started the processes already, all of them for one run")
        return max(1, min(jobs or self._places(), self.preview.parts))

    def _places(self) -> int:
        if self.accelerator.num_processes > 1:
            return 1
        if self.accelerator.device.type == "cpu":
            return usable_cores() // torch.get_num_threads()
        return len(visible_gpus(self.options.gpus)) if self.accelerator.device.type == "cuda" else 1

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

    def train_teacher(
        self, model: str, dataset: str, recipe: str | None = None, seed: int | None = None, file: Path | None = None
    ) -> list[str]:
        """Train a teacher and, once it is done, write its entry, if it is made otherwise than its entry says.

        Args:
            recipe, seed: instead of its entry's; the options' settings of recipe and teacher change them.
            file: for the entry; None for `teachers.toml` in the store.

        Returns:
            The numbers in which it differs from its entry of before.

        Raises:
            CakdError: it comes as a file, its training failed, or the user stopped; no entry is written.
        """
        cell = self.teachers.new_cell(model, dataset, recipe, seed)
        if cell is None:
            raise UsageError(f"{model}@{dataset} comes as a file, not by training; add --recipe RECIPE to train one")
        for reason in self.harness.run([cell]).failed.values():
            raise CakdError(f"training {model}@{dataset} failed: {reason}")
        if not self.accelerator.is_main_process:
            return []
        return self.teachers.enter(model, cell, self.harness.dataset(dataset), file or self.store.root / OWN_FILE)

    def check_teacher(self, model: str, dataset_name: str) -> TeacherCheck:
        """Evaluate a teacher as before a run by the options' recipe, its own, or the default one of its dataset.

        Raises:
            TeacherError: it is missing, or not what its entry says.
        """
        dataset = self.harness.dataset(dataset_name)
        cell, run = self.teachers.training_cell(model, dataset_name), self.teachers.run(model, dataset)
        if run and not run.is_done:
            name = f"{model}@{dataset_name}"
            raise TeacherError(f"{name} is not trained yet: `cakdbench teacher train {name}` does it, or the first run")
        kind = model_kind(self.teachers.entry(model, dataset_name).zoo_model)
        chosen = load_recipe(self.options.recipe) if self.options.recipe else cell and cell.recipe
        recipe = chosen or default_recipe(dataset_name, kind)
        teacher = self.teachers.load(model, dataset, recipe)
        return TeacherCheck(verify_teacher(teacher, dataset, recipe, self.runtime), teacher.sha256)
