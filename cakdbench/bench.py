"""What the commands do, for any front end: plan, estimate, run, report."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from cakdbench.data.stream import SampleStream
from cakdbench.display import duration, watcher_for
from cakdbench.errors import UsageError
from cakdbench.estimate import estimate_seconds
from cakdbench.group import Options
from cakdbench.harness import Harness, Outcome
from cakdbench.jobs import helpers
from cakdbench.models.zoo import model_kind
from cakdbench.plan import Cell, Plan
from cakdbench.recipes import default_recipe
from cakdbench.store import Store
from cakdbench.teachers import Teachers, gate
from cakdbench.watch import Silent, Watcher

LONG = 2 * 3600
"""Seconds on a CPU above which a run asks before it starts."""


class Bench:
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

    def harness(self, watcher: Watcher | None = None, stop: Callable[[], bool] = lambda: False) -> Harness:
        return Harness(self.store, self.teachers, self.accelerator, watcher or Silent(), self.options, stop)

    def check(self, plan: Plan) -> None:
        """Find what would stop the plan before anything starts: data, teachers' entries, batches.

        Raises:
            UsageError: says what is missing or does not fit.
        """
        for cell in plan.cells:
            dataset = self.harness().dataset(cell.pair.dataset)
            SampleStream(dataset, cell.recipe, cell.seed, world=self.accelerator.num_processes)
            if cell.needs_teacher:
                self.teachers.training_cell(cell.pair.teacher, cell.pair.dataset)

    def states(self, plan: Plan) -> list[tuple[Cell, str]]:
        """The cells with the state of their runs; "planned" where the key hangs on a teacher still to be trained."""
        harness = self.harness()
        waiting = {(c.pair.teacher, c.pair.dataset) for c in harness.missing_teachers(plan.cells)}
        rows = []
        for cell in plan.cells:
            waits = cell.needs_teacher and (cell.pair.teacher, cell.pair.dataset) in waiting
            rows.append((cell, "planned" if waits else harness.tasks([cell])[0].folder.state()))
        return rows

    def show(self, plan: Plan) -> None:
        """Print the plan: cells, refusals, teachers to train, and an estimate."""
        states = self.states(plan)
        table = Table("pair", "recipe", "seed", "methods", title="plan", title_justify="left")
        rows: dict[tuple, list[str]] = {}
        for cell, state in states:
            name = cell.label if state == "planned" else f"{cell.label} ({state})"
            rows.setdefault((str(cell.pair), cell.recipe.name, str(cell.seed)), []).append(name)
        for row, labels in rows.items():
            table.add_row(*row, ", ".join(labels))
        self.console.print(table)
        for refusal in plan.refusals:
            self.console.print(f"refused: {refusal.label} on {refusal.pair}: {refusal.reason}", markup=False)
        for cell in self.harness().missing_teachers(plan.cells):
            self.console.print(f"teacher to train first: {cell.pair.teacher} ({cell.recipe.name})", markup=False)
        counts = Counter(state for _, state in states)
        self.console.print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
        self.console.print(f"estimate: {self.estimate(states)[1]}", highlight=False)

    def estimate(self, states: list[tuple[Cell, str]]) -> tuple[float, str]:
        """Seconds, and a sentence, for what is not done; missing teachers are counted in."""
        cells = [cell for cell, state in states if state != "done"]
        if not cells:
            return 0.0, "nothing left to do"
        cells += self.harness().missing_teachers(cells)
        with self.console.status("timing one training step of each kind"):
            seconds = estimate_seconds(cells, self.accelerator, self._probe(cells), self.harness().dataset)
        return seconds, (
            f"about {duration(seconds)} on this {self.accelerator.device.type.upper()}, from one timed step of each "
            "kind; rendering, evaluation and checkpoints come on top"
        )

    def _probe(self, cells: list[Cell]) -> int:
        if self.accelerator.device.type == "cuda":
            return min(cell.recipe.local_batch for cell in cells)
        return 32 if max(cell.recipe.image_size for cell in cells) <= 96 else 4

    def confirm(self, plan: Plan, yes: bool) -> None:
        """Say what a long run without a GPU will cost, and ask.

        Raises:
            UsageError: the user does not want it, or cannot be asked.
        """
        if yes or self.accelerator.device.type == "cuda":
            return
        seconds, sentence = self.estimate(self.states(plan))
        if seconds < LONG:
            return
        self.console.print(f"There is no GPU here. Estimate: {sentence}.", highlight=False)
        if not (self.console.is_interactive and self.console.input("Start all the same? [y/N] ").lower() == "y"):
            raise UsageError("not started; add --yes to run it on the CPU all the same, or use a smaller suite (demo)")

    def run(self, cells: list[Cell], jobs: int | None = None) -> Outcome:
        """Work through the cells under a live display; the first Ctrl-C saves all lanes and ends.

        Args:
            jobs: processes that share the groups; None for one per core on a CPU.
        """
        if jobs is None:
            jobs = (os.cpu_count() or 1) // torch.get_num_threads() if self._alone_on_cpu() else 1
        more = min(jobs, self.harness().groups_left(cells)) - 1
        with stoppable() as stop, helpers(max(more, 0)), watcher_for(self.console) as watcher:
            return self.harness(watcher, stop).run(cells)

    def _alone_on_cpu(self) -> bool:
        return self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1

    def help(self, cells: list[Cell], parent: int) -> None:
        """Work through the cells in silence, as a helper of the process `parent`, for as long as that lives."""
        with stoppable() as asked:
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
        teacher = self.teachers.load(model, dataset, recipe.image_size, recipe.teacher_norm)
        facts = gate(teacher, dataset, recipe, self.accelerator, allow_mismatch=False)
        expected = "no expectation" if facts.expected is None else f"expected {facts.expected:.2f} ± {facts.tolerance}"
        self.console.print(f"{model}@{dataset_name} ({facts.source}): {facts.measured:.2f} %, {expected}", markup=False)
        self.console.print(f"sha256 {teacher.sha256}", highlight=False)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
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
