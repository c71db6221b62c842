"""The harness: works through the cells of a plan, each once, group by group."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from accelerate.utils import broadcast_object_list

from cakdbench.data.datasets import ImageDataset, load_dataset
from cakdbench.data.renderers import RendererLost, is_lost_renderer, lost_renderer
from cakdbench.engine.gate import verify_teacher
from cakdbench.engine.group import Group, GroupOutcome
from cakdbench.engine.picking import Picker
from cakdbench.engine.share import ALL, Share
from cakdbench.engine.tapes import find_tape, needs_of, tapes_of_any_device
from cakdbench.engine.task import Task, steps_of, waited_for
from cakdbench.engine.teachers import Teachers
from cakdbench.engine.waves import ground, ground_wave, waves
from cakdbench.grid.pairs import RUN
from cakdbench.grid.plan import Cell
from cakdbench.models.staged import StagedModel
from cakdbench.records import TeacherFacts
from cakdbench.store import RunFolder, Store
from cakdbench.train.runtime import Runtime
from cakdbench.train.tape import Tape
from cakdbench.train.teaching import Taping
from cakdbench.train.trainer import Interrupted
from cakdbench.utils.device import is_out_of_memory
from cakdbench.utils.errors import StoreError, TeacherError, UsageError, describe_error

MOST_LOSSES = 3
"""Rendering processes that may die without a step forward between them."""


@dataclass
class Outcome:
    """The keys of a grid's runs that are done, and the reasons of those that failed."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, group: GroupOutcome) -> None:
        self.done += [task.key for task in group.done]
        self.failed |= group.failed


class Harness:
    """Runs cells in this process, or in all processes of one `accelerate launch`.

    Attributes:
        elsewhere: whether others than this process's device will compute, and it cannot tell which.
    """

    elsewhere = False

    def __init__(self, store: Store, teachers: Teachers, runtime: Runtime):
        self.store = store
        self.teachers = teachers
        self.inits = teachers.inits
        self.runtime = runtime
        self.accelerator = runtime.accelerator
        self._verified: dict[tuple[object, ...], TeacherFacts] = {}
        self._earlier: set[str] = set()
        self._has_run = False
        self._losses = 0  # of rendering processes, one after the other without a step forward

    def dataset(self, name: str) -> ImageDataset:
        options = self.runtime.options
        return load_dataset(name, options.data_dir, options.download, on_bad_image=options.on_bad_image)

    def run(self, cells: list[Cell], share: Share = ALL) -> Outcome:
        """Train the teachers that are missing, verify all of them, then run every cell that is not done.

        Args:
            share: how much of it this process takes at a time, where others on the same store help. One that does
                not wait for others verifies a teacher with its first group, and may return with work left.

        Raises:
            TeacherError: a teacher cannot be had or is not what its entry says; no student has been trained.
            Interrupted: the user stopped; all is saved.
            StoreError: the store cannot be written.
        """
        try:
            trainings = self.trainings(cells)
            self.remember_failures(trainings)
            if self._train_teachers(trainings, share) and share.once:
                return Outcome()
            return self.in_waves(cells, partial(self._verify_and_work, share=share), share.once)
        finally:
            self._has_run = True

    def in_waves(self, cells: list[Cell], work: Callable[[list[Task]], Outcome], once: bool = False) -> Outcome:
        """Work through the cells, those that others learn or start from first; their teachers are at hand.

        Args:
            work: runs what is not done. once: end after the first cells that there was work for.
        """
        outcome = Outcome()
        for planned in waves(cells):
            wave = ground_wave(planned, self._folder)
            tasks = self.tasks(wave.cells)
            self.remember_failures(tasks)
            unusable = self.mend(tasks)
            usable = [task for task in tasks if task.key not in unusable]
            ends = once and not all(task.folder.is_done or self.new_failure(task) for task in usable)
            result = work(usable)
            outcome.done += result.done
            outcome.failed |= result.failed | unusable | wave.dropped
            if ends:
                break
        return outcome

    def ground(self, cell: Cell) -> Cell | None:
        """Return a cell with the keys of the runs that it names; None if one is not done. Teachers must be at hand."""
        return ground(cell, self._folder)

    def _folder(self, cell: Cell) -> RunFolder:
        return self._task(cell).folder

    def _verify_and_work(self, tasks: list[Task], share: Share) -> Outcome:
        if not share.once:
            self.verify_teachers(tasks)
        return self._work(tasks, share)

    def verify_teachers(self, tasks: list[Task]) -> None:
        """Verify the teachers of all tasks that are not done.

        Raises:
            TeacherError: one is not what its entry says.
        """
        for task in tasks:
            if task.cell.needs_teacher and not task.folder.is_done:
                self._facts(task.cell)

    def remember_failures(self, tasks: list[Task]) -> None:
        """Take the failures from before this command for what is tried again; in a second call, all there are."""
        for task in tasks:
            failure = task.folder.last_failure()
            if failure and (self._has_run or failure.attempt != self.runtime.options.attempt):
                self._earlier.add(failure.id)

    def _train_teachers(self, trainings: list[Task], share: Share) -> bool:
        """Train the teachers that are missing; return False if none is."""
        self.mend_teachers(trainings)
        missing = [task for task in trainings if not task.folder.is_done]
        if not missing:
            return False
        names = ", ".join(f"{task.cell.pair.student}@{task.cell.pair.dataset}" for task in missing)
        if not share.first:
            self.runtime.events.say(f"training first the teachers this grid needs: {names}")
        for key, reason in self._work(missing, share).failed.items():
            raise TeacherError(f"training the teacher {key} failed: {reason}")
        return True

    def _facts(self, cell: Cell) -> TeacherFacts:
        """Verify the cell's teacher, once for all runs with the same test images; of several each, then all as one."""
        for name in cell.pair.teachers:
            facts = self._verify(name, cell)
        return self._verify(cell.pair.teacher, cell) if len(cell.pair.teachers) > 1 else facts

    def _verify(self, teacher: str, cell: Cell) -> TeacherFacts:
        recipe, dataset = cell.recipe, self.dataset(cell.pair.dataset)
        name = teacher, dataset.name, recipe.image_size, recipe.split, recipe.teacher_norm, recipe.evaluation
        if name not in self._verified:
            loaded = self.teachers.load(teacher, dataset, recipe)
            with _room_for(cell, self.accelerator.device):
                self._verified[name] = verify_teacher(loaded, dataset, recipe, self.runtime)
        return self._verified[name]

    def trainings(self, cells: list[Cell]) -> list[Task]:
        """Return the runs of the teachers that are trained here, done or not."""
        taught = [(name, cell.pair.dataset) for cell in cells if cell.needs_teacher for name in cell.pair.teachers]
        names = dict.fromkeys(name for name in taught if not name[0].startswith(RUN))
        trainings = filter(None, (self.teachers.training_cell(*name) for name in names))
        return [self._task(cell) for cell in trainings]

    def tasks(self, cells: list[Cell]) -> list[Task]:
        """Return the cells with their keys, each key once; the teachers must be at hand."""
        tasks: dict[str, Task] = {}
        for cell in cells:
            task = self._task(cell)
            tasks.setdefault(task.key, task)
        return list(tasks.values())

    def _task(self, cell: Cell) -> Task:
        dataset, teacher = self.dataset(cell.pair.dataset), None
        if cell.needs_teacher:
            teacher = self.teachers.identity(cell.pair.teacher, dataset, cell.recipe)
        identity = cell.identity(dataset, teacher, self.inits.key(cell.recipe, cell.seed))
        return Task(cell, identity, self.store.run(identity))

    def _work(self, tasks: list[Task], share: Share) -> Outcome:
        """Run what is not done. What another process works on is waited for, and taken over if it dies."""
        outcome, pending = Outcome(), {task.key: task for task in tasks}
        if self.accelerator.is_main_process and not all(task.folder.is_done for task in tasks):
            self.store.create()
        picker = Picker(self.runtime, self.dataset)
        if self.accelerator.num_processes > 1:  # what fails in one of them again ends all: it comes last, and alone
            picker.most |= {task.key: 1 for task in tasks if task.folder.last_failure()}
        waiting, events = False, self.runtime.events
        while pending:
            group = self._take(pending, outcome, picker, share, len(tasks))
            events.grid(len(outcome.done), len(outcome.failed), len(tasks))
            if group:
                result = self._attempt(group, share)
                outcome.add(result)
                for task in group:
                    if task.key not in result.left:
                        del pending[task.key]
                picker.most |= result.crowded
                events.grid(len(outcome.done), len(outcome.failed), len(tasks))
            if share.once:  # but what found no memory is tried again here, where that is known
                pending = {key: task for key, task in pending.items() if key in picker.most}
            elif not group and pending:
                if not waiting and not share.first:  # of several processes one says it for all
                    events.say(waited_for(list(pending.values())))
                waiting = True
                time.sleep(1)
        return outcome

    def _take(self, pending: dict[str, Task], outcome: Outcome, picker: Picker, share: Share, total: int) -> list[Task]:
        """Lock the tasks of one group. What is done or has failed since the start goes to the outcome.

        Empty if nothing is left, or all that is left is locked by other processes.

        Raises:
            Interrupted: the user wants to stop.
        """
        keys, done, failed, stop = [], [], {}, self.runtime.stop()
        if self.accelerator.is_main_process and not stop:
            self.store.require()
            failed = {k: reason for k, task in pending.items() if (reason := self.new_failure(task))}
            left = [task for key, task in pending.items() if key not in failed]
            keys = [task.key for task in picker.lock(left, share, total)]
            done = [key for key, task in pending.items() if task.folder.is_done]
        keys, done, failed, stop = broadcast_object_list([keys, done, failed, stop])
        if stop:
            raise Interrupted("interrupted: the same command goes on from here")
        outcome.done += done
        outcome.failed |= failed
        for key in (*done, *failed):
            del pending[key]
        return [pending[key] for key in keys]

    def new_failure(self, task: Task) -> str | None:
        """Return the reason of a failure since this command began, in whichever process; known by identity."""
        failure = task.folder.last_failure()
        return failure.reason if failure and failure.id not in self._earlier else None

    def mend_teachers(self, trainings: list[Task]) -> None:
        """Mend damaged runs of teachers.

        Raises:
            TeacherError: one cannot be read now.
        """
        for key, reason in self.mend(trainings).items():
            raise TeacherError(f"the teacher {key} cannot be read: {reason}")

    def mend(self, tasks: list[Task]) -> dict[str, str]:
        """Mend damaged runs, and say so; return the reasons of those that cannot be read or mended now, by key."""
        unusable: dict[str, str] = {}
        if self.accelerator.is_main_process:
            for task in tasks:
                try:
                    if self.store.fault(task.folder) and (told := task.folder.mend()):
                        self.runtime.events.say(told)
                except StoreError as error:
                    unusable[task.key] = str(error)
            self.store.index.save()
        return broadcast_object_list([unusable])[0]

    def _attempt(self, group: list[Task], share: Share) -> GroupOutcome:
        """Train a group; where a rendering process died, it goes on from its checkpoints as long as that helps.

        Raises:
            RendererLost: it helps no more, or this process is to end after one group.
        """
        before = steps_of(group)
        try:
            return self._train(group)
        except (RendererLost, RuntimeError) as error:
            if not is_lost_renderer(error):
                raise
            lost = lost_renderer(error)
        self._losses = 1 if steps_of(group) > before else self._losses + 1
        if self._losses > MOST_LOSSES or share.once or self.accelerator.num_processes > 1:
            raise lost
        self.runtime.events.say(f"{lost}; its runs go on from their last checkpoints")
        return GroupOutcome(behind=group)

    def _train(self, tasks: list[Task]) -> GroupOutcome:
        """Train a group whose tasks are locked, and release them."""
        try:
            for task in tasks:
                if self.accelerator.is_main_process:
                    task.folder.open(task.identity, task.cell.label, task.cell.recipe.name)
            teacher, facts, taping = self._teacher(tasks)
            dataset = self.dataset(tasks[0].cell.pair.dataset)
            return Group(tasks, dataset, teacher, facts, self.runtime, self.inits, taping).train()
        except UsageError as error:  # of the data, as an image that cannot be read: it ends every run of the group
            if self.accelerator.is_main_process:
                for task in tasks:
                    task.folder.fail(str(error), attempt=self.runtime.options.attempt)
            raise
        finally:
            self.accelerator.free_memory()
            for task in tasks:
                task.folder.release()

    def _teacher(self, tasks: list[Task]) -> tuple[StagedModel | None, TeacherFacts | None, Taping | None]:
        """Return the teacher of a group, on the device, what its verification measured, and its tape.

        Of a teacher whose tape is enough only the shapes are made. Several teachers have no tape.
        """
        cell = next((task.cell for task in tasks if task.cell.needs_teacher), None)
        if cell is None:
            return None, None, None
        dataset, device = self.dataset(cell.pair.dataset), self.accelerator.device
        facts = self._facts(cell)

        def load() -> StagedModel:
            return self.teachers.load(cell.pair.teacher, dataset, cell.recipe).model.to(device)

        taped = self.runtime.options.tape and len(cell.pair.teachers) == 1
        taping = Taping(self.tape(cell), load, self.runtime.events.say) if taped else None
        if taping and taping.replaces_teacher(needs_of(task.cell, dataset.num_classes) for task in tasks):
            return self.teachers.shapes(cell.pair.teacher, dataset, cell.recipe), facts, taping
        with _room_for(cell, device):
            teacher = load()
        return teacher, facts, taping and replace(taping, load=lambda: teacher)

    def tapes(self, cell: Cell) -> list[Tape]:
        """Return the tapes that a cell's teacher may be replayed from: its own, or of any device where that decides."""
        if not self.elsewhere:
            return [self.tape(cell)]
        dataset = self.dataset(cell.pair.dataset)
        identity = self.teachers.identity(cell.pair.teacher, dataset, cell.recipe)
        return list(tapes_of_any_device(self.store, cell, dataset, identity, self.runtime))

    def tape(self, cell: Cell) -> Tape:
        """Return the tape of a cell's teacher, which must be at hand."""
        dataset = self.dataset(cell.pair.dataset)
        identity = self.teachers.identity(cell.pair.teacher, dataset, cell.recipe)
        width = self.teachers.shapes(cell.pair.teacher, dataset, cell.recipe).width
        return find_tape(self.store, cell, dataset, identity, width, self.runtime)


@contextlib.contextmanager
def _room_for(cell: Cell, device: torch.device) -> Iterator[None]:
    """Say which teacher finds no memory even before a student is there."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TeacherError(
            f"the teacher {cell.pair.teacher} finds no memory on {device} by itself ({describe_error(error, None)}): "
            "take a device with more, or end what else uses it"
        ) from None
