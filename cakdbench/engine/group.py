"""One group: cells that share teacher, data, recipe and seed, trained in one pass and recorded."""

import traceback
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cakdbench.build import build_method
from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.engine.inits import Inits
from cakdbench.engine.memory import advice
from cakdbench.engine.recorder import Recorder
from cakdbench.engine.run_log import RunLog
from cakdbench.engine.task import Task
from cakdbench.engine.tracking import Tracks
from cakdbench.engine.work import Work
from cakdbench.grid.plan import Cell
from cakdbench.models.staged import StagedModel
from cakdbench.records import Epoch, TeacherFacts
from cakdbench.store import checkpoint_files
from cakdbench.train.checkpoint import load_checkpoint, save_checkpoint, set_aside
from cakdbench.train.evaluate import evaluate
from cakdbench.train.events import GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.ranks import failed_alone, out_of_step
from cakdbench.train.runtime import Runtime
from cakdbench.train.teaching import Taping
from cakdbench.train.trainer import Interrupted, Keeper, Trainer
from cakdbench.utils.device import is_out_of_memory
from cakdbench.utils.errors import RAISED, StoreError, describe_error, file_of

FRAMES = 12
"""Of a traceback, that are kept of a failed run."""


@dataclass
class GroupOutcome:
    """The tasks of a group by how they ended.

    Attributes:
        failed: the reasons, by the tasks' keys.
        crowded: tasks that found no memory beside the others, by their keys: of how many lanes their next group may be.
        behind: tasks whose newest checkpoint was damaged; they wait at an earlier step, for a group of their own.
    """

    done: list[Task] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    crowded: dict[str, int] = field(default_factory=dict)
    behind: list[Task] = field(default_factory=list)

    @property
    def left(self) -> list[str]:
        """Return the keys of the tasks that wait for another group."""
        return [*self.crowded, *(task.key for task in self.behind)]


class Group(Keeper):
    """Trains the tasks of one group and writes their records.

    Args:
        teacher: verified, frozen, on the device; None if no task needs one; without content if all comes from a tape.
        facts: measured by the verification.
        inits: makes the students.
        taping: the teacher's tape, if there is to be one.
    """

    def __init__(
        self,
        tasks: list[Task],
        dataset: ImageDataset,
        teacher: StagedModel | None,
        facts: TeacherFacts | None,
        runtime: Runtime,
        inits: Inits,
        taping: Taping | None = None,
    ):
        super().__init__()
        self.taping = taping
        self.inits = inits
        first = tasks[0].cell
        self.recipe = first.recipe
        self.seed = first.seed
        self.dataset = dataset
        self.teacher = teacher
        self.runtime = runtime
        self.accelerator = runtime.accelerator
        self.stream = SampleStream(dataset, self.recipe, self.seed, **runtime.rendering)
        self.evaluation = EvalStream(dataset.test, dataset, self.recipe, **runtime.rendering)
        self.tasks = {self._label(task, tasks): task for task in tasks}
        self.recorder = Recorder(self.recipe, dataset, facts, runtime, list(self.tasks))
        self.logs: dict[str, RunLog] = {}
        self.crowded: dict[str, int] = {}
        self.tracks: dict[str, Tracks] = {}

    @staticmethod
    def _label(task: Task, tasks: list[Task]) -> str:
        students = {t.cell.pair.student for t in tasks}
        return task.cell.label if len(students) == 1 else f"{task.cell.label} > {task.cell.pair.student}"

    def train(self) -> GroupOutcome:
        """Train all lanes to the end.

        Raises:
            Interrupted: the user stopped; all lanes are saved.
            StoreError: the store cannot be written.
        """
        lanes = [lane for label, task in self.tasks.items() if (lane := self._lane(label, task))]
        # A damaged checkpoint throws a lane back; one pass over the data serves those that stand at the same step.
        step = max((lane.step for lane in lanes), default=0)
        outcome = GroupOutcome(behind=[self.tasks[lane.label] for lane in lanes if lane.step != step])
        lanes[:] = [lane for lane in lanes if lane.step == step]  # the one list: who leaves it gives back its memory
        try:
            outcome.done = self._train(lanes) if lanes else []
        finally:
            for track in self.tracks.values():
                track.close()
        outcome.crowded = self.crowded
        outcome.failed = {self.tasks[label].key: reason for label, reason in self.failed.items()}
        return outcome

    def _train(self, lanes: list[Lane]) -> list[Task]:
        view = self._view(lanes)
        self._start_logs(lanes, view)
        data = self.stream, self.evaluation
        trainer = Trainer(lanes, self.teacher, *data, self.runtime, self, view, self.taping)
        try:
            trainer.run()
        except Interrupted:
            for lane in trainer.lanes:
                self._say(lane.label, "interrupted; saved")
            raise
        trainer.each(lambda lane: self._finish(lane, trainer))
        return [self.tasks[lane.label] for lane in trainer.lanes]

    def _start_logs(self, lanes: list[Lane], view: GroupView) -> None:
        if not self.accelerator.is_main_process:
            return
        for lane in lanes:
            task = self.tasks[lane.label]
            title = f"{task.cell.label} on {task.cell.pair}, {self.recipe.name}, seed {self.seed}"
            self.logs[lane.label] = RunLog(task.folder.path, lane.step, view, title)
            names, say = self.runtime.options.track, self.runtime.events.say
            self.tracks[lane.label] = Tracks(names, task.folder, title, lane.step, say)

    def _say(self, label: str, text: str) -> None:
        if label in self.logs:
            self.logs[label].say(text)

    def log(self, lane: Lane, view: GroupView, line: Epoch | None = None) -> None:
        """Write how far the lane is."""
        if lane.label in self.logs:
            self.logs[lane.label].update(lane, view, line)
            self.tracks[lane.label].update(lane, view, line)

    def save(self, lane: Lane) -> None:
        """Write a checkpoint of the lane."""
        lane.method.before_save()
        if self.accelerator.is_main_process:
            task = self.tasks[lane.label]
            save_checkpoint(task.folder.checkpoints, lane.step, lane.state(), task.key)
        self.accelerator.wait_for_everyone()

    def fail(self, label: str, reason: str, error: BaseException | None = None, alone: bool = False) -> None:
        """Write down that a task failed, with the last frames of an error of its method, and say so."""
        super().fail(label, reason, error)
        task = self.tasks[label]
        self.runtime.events.say(f"{task.cell.label} on {task.cell.pair} failed: {reason}")
        if self.accelerator.is_main_process or alone:
            frames = "".join(traceback.format_exception(error, limit=-FRAMES)) if error else ""
            task.folder.fail(reason, frames, self.runtime.options.attempt)
            self._say(label, f"failed: {reason}")

    def postpone(self, label: str, reason: str, most: int) -> None:
        """Leave a task that found no memory to a smaller group; one that was alone fails."""
        task = self.tasks[label]
        if len(self.tasks) == 1:
            hint = advice(Work(task.cell, self.dataset.num_classes, len(self.dataset.train)))
            return self.fail(label, f"out of memory {reason}; nothing ran beside it: {hint}")
        self.crowded[task.key] = most
        again = "alone" if most == 1 else f"in a group of {most} at most"
        self.runtime.events.say(f"{label} found no memory {reason}; it is tried again {again}, after the others")
        self._say(label, f"no memory beside the others {reason}; to be tried again {again}")

    def _lane(self, label: str, task: Task) -> Lane | None:
        """Return the lane as its last checkpoint left it; None if it cannot be built, which fails the task."""
        try:
            lane = self._build(label, task.cell)
            with self.accelerator.main_process_first():  # it sets damaged files aside
                state, damage = load_checkpoint(task.folder.checkpoints, task.key)
            for sentence in damage:
                self.runtime.events.say(sentence)
            if state and not self._loaded(lane, state, task):
                lane = self._build(label, task.cell)
        except RAISED as error:  # a method may raise anything, and must not take the others with it
            told = str(error) if isinstance(error, StoreError) else describe_error(error, file_of(task.cell.method))
            reason = f"while building: {told}"
            where = f"{label} while building"
            if ending := out_of_step(error, where, told, self.accelerator):
                raise ending from error
            if ending := failed_alone(error, where, told, self.accelerator):
                self.fail(label, reason, error, alone=True)
                raise ending from error
            if is_out_of_memory(error):
                self.postpone(label, reason, 1)
            else:
                self.fail(label, reason, error)
        else:
            return lane
        self.accelerator.free_memory()
        return None

    def _loaded(self, lane: Lane, state: dict[str, Any], task: Task) -> bool:
        """Put a lane where its checkpoint was; one that does not fit the code is set aside, and the run begins anew."""
        try:
            lane.load(state)
        except RAISED as error:  # a method may have renamed what its state is made of
            for path in checkpoint_files(task.folder.checkpoints):
                set_aside(path)
            reason = str(error).splitlines()[0] if str(error) else ""
            self.runtime.events.say(f"{task.key}: its checkpoint does not fit the code ({reason}); it begins anew")
            return False
        return True

    def _build(self, label: str, cell: Cell) -> Lane:
        student = self.inits.student(cell.pair.student, self.dataset.num_classes, self.recipe, self.seed)
        return build_lane(cell, label, student, self.teacher, self.stream, self.runtime)

    def _view(self, lanes: list[Lane]) -> GroupView:
        pairs = [task.cell.pair for task in self.tasks.values()]
        students = ", ".join(dict.fromkeys(pair.student for pair in pairs))
        training = all(pair.teacher == pair.student for pair in pairs)
        return GroupView(
            title=f"teacher {students} @ {self.dataset.name}"
            if training
            else f"{pairs[0].teacher} > {students} @ {self.dataset.name}",
            recipe=self.recipe.name,
            seed=self.seed,
            epochs=self.recipe.epochs,
            steps_per_epoch=self.stream.steps_per_epoch,
            lanes=[LaneView(lane.label, top1=_last_top1(lane)) for lane in lanes],
            step=lanes[0].step,
            first_step=lanes[0].step,
        )

    def _finish(self, lane: Lane, trainer: Trainer) -> None:
        result, corrupted = trainer.results.get(lane.label), trainer.corrupted.get(lane.label, [])
        if result is None:  # the last checkpoint was written after the last epoch
            result = evaluate(lane.method.student, self.evaluation, self.accelerator)
        networks = {name: self._top1(network) for name, network in lane.method.evaluated().items()}
        if self.accelerator.is_main_process:
            noisy = "".join(f"; {each.corruption} {each.top1:.2f} %" for each in corrupted)
            self._say(lane.label, f"done: test {result.top1:.2f} %{noisy}")
            self.recorder.write(self.tasks[lane.label], lane, result, networks, corrupted)
        self.accelerator.wait_for_everyone()

    def _top1(self, network: nn.Module) -> float:
        return evaluate(network, self.evaluation, self.accelerator).top1


def build_lane(
    cell: Cell, label: str, student: StagedModel, teacher: StagedModel | None, stream: SampleStream, runtime: Runtime
) -> Lane:
    """Return a cell's method with its student and teacher, ready to train on a stream."""
    labels, options = torch.from_numpy(stream.dataset.train.labels), runtime.options
    method = build_method(cell.method, student, teacher, cell.config, labels=labels, seed=stream.seed)
    return Lane(
        method.to(memory_format=torch.channels_last) if options.channels_last else method,
        stream.recipe,
        stream.seed,
        runtime.accelerator,
        steps_per_epoch=stream.steps_per_epoch,
        accumulation=stream.accumulation,
        label=label,
        compile=options.compile,
    )


def _last_top1(lane: Lane) -> float | None:
    return next((line.top1 for line in reversed(lane.history) if line.top1 is not None), None)
