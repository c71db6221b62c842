"""The harness: works through the cells of a plan, each once, group by group."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from cakdbench.data.datasets import ImageDataset, load_dataset
from cakdbench.engine.group import Group, Options, Task
from cakdbench.engine.launch.local import fair_share
from cakdbench.engine.teachers import Teachers, verify_teacher
from cakdbench.grid.plan import Cell
from cakdbench.models.staged import StagedModel
from cakdbench.records import TeacherFacts
from cakdbench.store import Store, checkpoint_step
from cakdbench.train.events import Events
from cakdbench.train.trainer import Interrupted
from cakdbench.utils.errors import TeacherError


@dataclass
class Outcome:
    """What became of a grid: keys of the runs that are done, and the reasons of those that failed."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Harness:
    """Runs cells in this process, or in all processes of one `accelerate launch`."""

    def __init__(
        self,
        store: Store,
        teachers: Teachers,
        accelerator: Accelerator,
        events: Events,
        options: Options,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.store, self.teachers, self.options = store, teachers, options
        self.accelerator, self.events, self.stop = accelerator, events, stop
        self._gated: dict[tuple[object, ...], TeacherFacts] = {}
        self._started = time.time()

    def dataset(self, name: str) -> ImageDataset:
        return load_dataset(name, self.options.data_dir)

    def run(self, cells: list[Cell]) -> Outcome:
        """Train the teachers that are missing, put all through their gates, then run every cell that is not done.

        Raises:
            TeacherError: a teacher cannot be had or is not what its entry says; no student has been trained.
            Interrupted: the user stopped; all is saved.
            StoreError: the store cannot be written.
        """
        trainings = self._trainings(cells)
        self._set_damaged_aside(trainings)
        missing = [task for task in trainings if not task.folder.is_done]
        if missing:
            names = ", ".join(f"{task.cell.pair.student}@{task.cell.pair.dataset}" for task in missing)
            self.events.say(f"training first the teachers this grid needs: {names}")
            for key, reason in self._work(missing).failed.items():
                raise TeacherError(f"training the teacher {key} failed: {reason}")
        tasks = self.tasks(cells)
        self._set_damaged_aside(tasks)
        for task in tasks:
            if task.cell.needs_teacher and not task.folder.is_done:
                self._facts(task.cell)
        return self._work(tasks)

    def _facts(self, cell: Cell) -> TeacherFacts:
        """What the gate says of the cell's teacher; it is asked once for all runs with the same test images."""
        pair, recipe = cell.pair, cell.recipe
        name = pair.teacher, pair.dataset, recipe.image_size, recipe.split, recipe.teacher_norm, recipe.evaluation
        if name not in self._gated:
            dataset, allowed = self.dataset(pair.dataset), self.options.allow_teacher_mismatch
            teacher = self.teachers.load(pair.teacher, dataset, recipe)
            rendering = self.options.rendering(self.accelerator)
            self._gated[name] = verify_teacher(teacher, dataset, recipe, self.accelerator, allowed, **rendering)
        return self._gated[name]

    def _trainings(self, cells: list[Cell]) -> list[Task]:
        names = dict.fromkeys((c.pair.teacher, c.pair.dataset) for c in cells if c.needs_teacher)
        trainings = filter(None, (self.teachers.training_cell(*name) for name in names))
        return [self._task(cell) for cell in trainings]

    def tasks(self, cells: list[Cell]) -> list[Task]:
        """The cells with their keys, each key once; the teachers must be at hand."""
        tasks: dict[str, Task] = {}
        for cell in cells:
            task = self._task(cell)
            tasks.setdefault(task.key, task)
        return list(tasks.values())

    def _task(self, cell: Cell) -> Task:
        dataset, teacher = self.dataset(cell.pair.dataset), None
        if cell.needs_teacher:
            teacher = self.teachers.identity(cell.pair.teacher, dataset, cell.recipe)
        identity = cell.identity(dataset, teacher)
        return Task(cell, identity, self.store.run(identity))

    def _work(self, tasks: list[Task]) -> Outcome:
        """Run what is not done. What another process works on is waited for, and taken over if it dies."""
        outcome, pending = Outcome(), {task.key: task for task in tasks}
        waiting = False
        while pending:
            group = self._take(pending, outcome)
            self.events.grid(len(outcome.done), len(outcome.failed), len(tasks))
            if group:
                self._train(group, outcome)
                for task in group:
                    del pending[task.key]
                self.events.grid(len(outcome.done), len(outcome.failed), len(tasks))
            elif pending:
                if not waiting:
                    self.events.say(f"waiting for {len(pending)} runs that another process works on")
                waiting = True
                time.sleep(1)
        return outcome

    def _take(self, pending: dict[str, Task], outcome: Outcome) -> list[Task]:
        """Lock the tasks of one group. What is done or has failed since the start goes to the outcome.

        Empty if nothing is left, or all that is left is locked by other processes.

        Raises:
            Interrupted: the user wants to stop.
        """
        keys, done, failed, stop = [], [], {}, self.stop()
        if self.accelerator.is_main_process and not stop:
            failed = {k: r for k, task in pending.items() if (r := task.folder.failure(self._started))}
            keys = [task.key for task in self._lock([t for k, t in pending.items() if k not in failed])]
            done = [key for key, task in pending.items() if task.folder.is_done]
        keys, done, failed, stop = broadcast_object_list([keys, done, failed, stop])
        if stop:
            raise Interrupted("interrupted: the same command goes on from here")
        outcome.done += done
        outcome.failed |= failed
        for key in (*done, *failed):
            del pending[key]
        return [pending[key] for key in keys]

    def _set_damaged_aside(self, tasks: list[Task]) -> None:
        if self.accelerator.is_main_process:
            for task in tasks:
                damage = task.folder.set_damaged_aside()
                if damage:
                    self.events.say(f"{damage}; kept as record.json.damaged, the run is computed again")
        self.accelerator.wait_for_everyone()

    def _lock(self, pending: list[Task]) -> list[Task]:
        names = list(dict.fromkeys(task.cell.shared for task in pending))
        most = min(self.options.max_lanes, fair_share(len(pending), self.options.jobs))
        for shared in reversed(names) if self.options.from_the_end else names:
            group: list[Task] = []
            for task in pending:
                if task.cell.shared != shared or len(group) == most:
                    continue
                if not task.folder.is_done and task.folder.acquire():
                    if task.folder.is_done:
                        task.folder.release()
                    else:
                        group.append(task)
            if group:
                return self._same_step(group)
        return []

    def _same_step(self, group: list[Task]) -> list[Task]:
        """The tasks that stand where the first does; the others are released, for a group of their own."""
        steps = {task.key: checkpoint_step(task.folder.checkpoints) for task in group}
        together = [task for task in group if steps[task.key] == steps[group[0].key]]
        for task in group:
            if task not in together:
                task.folder.release()
        return together

    def _train(self, tasks: list[Task], outcome: Outcome) -> None:
        cell = tasks[0].cell
        try:
            for task in tasks:
                if self.accelerator.is_main_process:
                    task.folder.open(task.identity, task.cell.label, task.cell.recipe.name)
            teacher, facts = self._teacher(tasks)
            if self.accelerator.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()

            def failed(task: Task, reason: str) -> None:
                outcome.failed[task.key] = reason
                self.events.say(f"{task.cell.label} on {task.cell.pair} failed: {reason}")
                if self.accelerator.is_main_process:
                    task.folder.fail(reason)

            group = Group(
                tasks,
                self.dataset(cell.pair.dataset),
                teacher,
                facts,
                self.accelerator,
                self.events,
                self.options,
                failed,
                self.stop,
            )
            outcome.done += [task.key for task in group.train()]
        finally:
            self.accelerator.free_memory()
            for task in tasks:
                task.folder.release()

    def _teacher(self, tasks: list[Task]) -> tuple[StagedModel | None, TeacherFacts | None]:
        """The teacher of a group, on the device, and what its gate said."""
        cell = next((task.cell for task in tasks if task.cell.needs_teacher), None)
        if cell is None:
            return None, None
        facts = self._facts(cell)
        teacher = self.teachers.load(cell.pair.teacher, self.dataset(cell.pair.dataset), cell.recipe)
        return teacher.model.to(self.accelerator.device), facts
