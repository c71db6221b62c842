"""What the commands do, for any front end: plan, estimate, run, report."""

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from rich.table import Table

from cakdbench.data.datasets import dataset_facts
from cakdbench.display import duration, watcher_for
from cakdbench.errors import UsageError
from cakdbench.estimate import estimate_seconds
from cakdbench.group import Options, Task
from cakdbench.harness import Harness, Outcome
from cakdbench.plan import Cell, Plan, Settings
from cakdbench.records import Record
from cakdbench.store import Store
from cakdbench.teachers import Teachers
from cakdbench.train.trainer import Interrupted
from cakdbench.watch import Silent

LONG = 2 * 3600
"""Seconds on a CPU above which a run asks before it starts."""


def make_accelerator(precision: str = "fp32", cpu: bool = False) -> Accelerator:
    """Device, precision and processes, as Accelerate finds them."""
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}; known: fp32, bf16")
    # Buffers stay local: NormStats averages batch norms, and a method's banks must not be overwritten.
    # A method may leave modules unused in some steps.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu, kwargs_handlers=[ddp])


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

    def harness(self, watcher=None, stop: Callable[[], bool] = lambda: False) -> Harness:
        return Harness(self.store, self.teachers, self.accelerator, watcher or Silent(), self.options, stop)

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

    def run(self, cells: list[Cell]) -> Outcome:
        """Work through the cells under a live display; the first Ctrl-C saves all lanes and ends."""
        with stoppable() as stop, watcher_for(self.console) as watcher:
            return self.harness(watcher, stop).run(cells)


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
