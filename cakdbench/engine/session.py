"""What the commands do, for any front end: plan, estimate, run, report."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cakdbench.cli.progress import duration, progress_on
from cakdbench.engine.estimate import Estimate, estimate
from cakdbench.engine.group import Options
from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.local import helpers
from cakdbench.engine.preview import Preview, make_preview
from cakdbench.engine.teachers import Teachers, verify_teacher
from cakdbench.grid.plan import Cell, Plan
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import default_recipe
from cakdbench.store import Store
from cakdbench.train.events import Events, NoEvents
from cakdbench.utils.errors import UsageError

LONG = 2 * 3600
"""Seconds on a CPU above which a run asks before it starts."""


class Session:
    """A store, its teachers and a device, ready for plans."""

    def __init__(
        self,
        console: Console,
        store: Store,
        teachers: Teachers,
        accelerator: Accelerator,
        options: Options,
    ):
        self.console, self.store, self.teachers = console, store, teachers
        self.accelerator, self.options = accelerator, options

    def harness(self, events: Events | None = None, stop: Callable[[], bool] = lambda: False) -> Harness:
        return Harness(self.store, self.teachers, self.accelerator, events or NoEvents(), self.options, stop)

    def make_preview(self, plan: Plan) -> Preview:
        return make_preview(self.harness(), plan.cells)

    def show(self, plan: Plan, preview: Preview, measured: bool = False) -> None:
        """Print the plan: cells, refusals, teachers to train, obstacles, and an estimate, `measured` if need be."""
        table = Table("pair", "recipe", "seed", "methods", title="plan", title_justify="left")
        rows: dict[tuple, list[str]] = {}
        for cell, state in preview.states:
            name = cell.label if state == "planned" else f"{cell.label} ({state})"
            rows.setdefault((str(cell.pair), cell.recipe.name, str(cell.seed)), []).append(name)
        for row, labels in rows.items():
            table.add_row(*row, Text(", ".join(labels)))
        self.console.print(table)
        for refusal in plan.refusals:
            self._say(f"refused: {refusal.label} on {refusal.pair}: {refusal.reason}")
        for cell in preview.trainings:
            self._say(f"teacher to train first: {cell.pair.student} ({cell.recipe.name})")
        for obstacle in preview.obstacles:
            self._say(f"missing before it can start: {obstacle}")
        counts = Counter(state for _, state in preview.states)
        self._say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
        self._say(f"estimate: {self.describe(self.estimate(preview, measured))}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def estimate(self, preview: Preview, measured: bool = False) -> Estimate | None:
        """Return how long what is not done takes; None if nothing is left."""
        if not preview.left:
            return None
        records, _ = self.store.records()
        with self.console.status("timing one training step of each kind" if measured else "counting"):
            return estimate(
                preview.left, self.accelerator, data_dir=self.options.data_dir, records=records, measured=measured
            )

    def describe(self, estimate: Estimate | None) -> str:
        """Return an estimate as a sentence."""
        if estimate is None:
            return "nothing left to do"
        device = "CPU" if self.accelerator.device.type == "cpu" else "GPU"
        return (
            f"about {_rough(estimate.seconds)} ({_rough(estimate.low)} to {_rough(estimate.high)}) in one process on "
            f"this {device}, from {estimate.basis}; rendering, evaluation and checkpoints come on top"
        )

    def confirm(self, preview: Preview, yes: bool) -> None:
        """Say what a long run without a GPU will cost, and ask.

        Raises:
            UsageError: the user does not want it, or cannot be asked.
        """
        if yes or self.accelerator.device.type == "cuda":
            return
        estimate = self.estimate(preview)
        if estimate is None or estimate.seconds < LONG:
            return
        self._say(f"There is no GPU here. Estimate: {self.describe(estimate)}.")
        if not (self.console.is_interactive and self.console.input("Start all the same? [y/N] ").lower() == "y"):
            raise UsageError("not started; add --yes to run it on the CPU all the same, or take a smaller suite (demo)")

    def run(self, cells: list[Cell], jobs: int = 1) -> Outcome:
        """Work through the cells under a live display; the first Ctrl-C saves all lanes and ends.

        Args:
            jobs: processes that share the lanes.
        """
        self.options = replace(self.options, jobs=jobs)
        with graceful_interrupt() as stop, helpers(jobs - 1), progress_on(self.console) as events:
            return self.harness(events, stop).run(cells)

    def jobs(self, preview: Preview, wanted: int | None) -> int:
        """Processes to share the work: one per core on a CPU unless the user says otherwise, never idle ones."""
        if wanted is None:
            alone_on_cpu = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
            wanted = len(os.sched_getaffinity(0)) // torch.get_num_threads() if alone_on_cpu else 1
        return max(1, min(wanted, preview.parts))

    def help(self, cells: list[Cell], parent: int, jobs: int) -> None:
        """Work through the cells in silence, as a helper of the process `parent`, for as long as that lives."""
        self.options = replace(self.options, from_the_end=True, jobs=jobs)
        with graceful_interrupt() as asked:
            self.harness(stop=lambda: asked() or os.getppid() != parent).run(cells)

    def check_teacher(self, model: str, dataset_name: str) -> None:
        """Evaluate a teacher as the gate does, and print it beside its entry.

        Raises:
            TeacherError: it is missing, or not what its entry says.
        """
        dataset = self.harness().dataset(dataset_name)
        cell = self.teachers.training_cell(model, dataset_name)
        kind = model_kind(self.teachers.entry(model, dataset_name).zoo_model)
        recipe = cell.recipe if cell else default_recipe(dataset_name, kind)
        teacher = self.teachers.load(model, dataset, recipe)
        facts = verify_teacher(teacher, dataset, recipe, self.accelerator, **self.options.rendering(self.accelerator))
        expected = "no expectation" if facts.expected is None else f"expected {facts.expected:.2f} ± {facts.tolerance}"
        self.console.print(f"{model}@{dataset_name} ({facts.source}): {facts.measured:.2f} %, {expected}", markup=False)
        self.console.print(f"sha256 {teacher.sha256}", highlight=False)


def _rough(seconds: float) -> str:
    """A duration, no finer than an estimate deserves."""
    return duration(seconds) if seconds < 2 * 3600 else f"{seconds / 3600:,.0f} hours"


@contextlib.contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives a question that turns true at the first SIGINT or SIGTERM; a second SIGINT ends at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
