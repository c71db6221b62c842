"""One group: cells that share teacher, data, recipe and seed, trained in one pass and recorded."""

import hashlib
import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import timm
import torch
import torchvision
from accelerate import Accelerator
from safetensors.torch import save

import cakdbench
from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.engine.energy import PowerMeter, energy_counter
from cakdbench.grid.plan import Cell
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import weights_sha256
from cakdbench.records import Conditions, Identity, Record, Result, TeacherFacts
from cakdbench.store import RunFolder, write_atomic
from cakdbench.train.checkpoint import load_checkpoint, save_checkpoint
from cakdbench.train.evaluate import Evaluation, evaluate
from cakdbench.train.events import Events, GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.trainer import Trainer
from cakdbench.utils.rng import seeded


@dataclass(frozen=True)
class Task:
    """A cell whose key is known, and its folder, locked by this process while it is worked on."""

    cell: Cell
    identity: Identity
    folder: RunFolder

    @property
    def key(self) -> str:
        return self.folder.key


@dataclass(frozen=True)
class Options:
    """How runs are computed. None of it changes what is computed.

    Attributes:
        data_dir: where the datasets lie; None for the default place.
        workers: processes that render images, per training process.
        max_lanes: students trained side by side at most.
        jobs: processes of this machine that share the work, this one among them.
        from_the_end: take the last group first, as helpers do, to keep out of each other's way.
    """

    data_dir: Path | None = None
    workers: int = 0
    max_lanes: int = 16
    jobs: int = 1
    checkpoint_seconds: float = 300.0
    compile: bool = False
    channels_last: bool = False
    allow_teacher_mismatch: bool = False
    from_the_end: bool = False

    def rendering(self, accelerator: Accelerator) -> dict[str, Any]:
        """How this process renders its share of the images: arguments of the streams."""
        return {
            "workers": self.workers,
            "rank": accelerator.process_index,
            "world": accelerator.num_processes,
            "pin_memory": accelerator.device.type == "cuda",
        }


class Group:
    """Trains the tasks of one group and writes their records.

    Args:
        teacher: gated, frozen, on the device; None if no task needs one.
        facts: what the gate measured.
        failed: told of each task that fails, with the reason.
    """

    def __init__(
        self,
        tasks: list[Task],
        dataset: ImageDataset,
        teacher: StagedModel | None,
        facts: TeacherFacts | None,
        accelerator: Accelerator,
        events: Events,
        options: Options,
        failed: Callable[[Task, str], None],
        stop: Callable[[], bool],
    ):
        first = tasks[0].cell
        self.recipe, self.seed, self.dataset = first.recipe, first.seed, dataset
        self.teacher, self.facts, self.options = teacher, facts, options
        self.accelerator, self.events, self.failed, self.stop = accelerator, events, failed, stop
        self.power = PowerMeter(energy_counter(accelerator.device))
        rendering = options.rendering(accelerator)
        self.stream = SampleStream(dataset, self.recipe, self.seed, **rendering)
        self.evaluation = EvalStream(dataset.test, dataset, self.recipe, **rendering)
        self.tasks = {self._label(task, tasks): task for task in tasks}

    @staticmethod
    def _label(task: Task, tasks: list[Task]) -> str:
        students = {t.cell.pair.student for t in tasks}
        return task.cell.label if len(students) == 1 else f"{task.cell.label} > {task.cell.pair.student}"

    def train(self) -> list[Task]:
        """Train all lanes to the end; returns the tasks that are done.

        Raises:
            Interrupted: the user stopped; all lanes are saved.
            StoreError: the store cannot be written.
        """
        lanes = [lane for label, task in self.tasks.items() if (lane := self._lane(label, task))]
        if not lanes:
            return []
        trainer = Trainer(
            lanes,
            self.teacher,
            self.stream,
            self.evaluation,
            self.accelerator,
            view=self._view(lanes),
            events=self.events,
            save=self._save,
            failed=lambda lane, reason: self.failed(self.tasks[lane.label], reason),
            stop=self.stop,
            checkpoint_seconds=self.options.checkpoint_seconds,
        )
        trainer.run()
        return [self._finish(lane, trainer.results.get(lane.label)) for lane in trainer.lanes]

    def _lane(self, label: str, task: Task) -> Lane | None:
        """The lane as its last checkpoint left it; None if it cannot be built, which fails the task."""
        try:
            lane = self._build(label, task.cell)
            state, damage = load_checkpoint(task.folder.checkpoints)
            for sentence in damage:
                self.events.say(sentence)
            if state:
                lane.load(state)
        except Exception as error:  # a method may raise anything, and must not take the others with it
            self.failed(task, f"{type(error).__name__} while building: {error}")
            return None
        return lane

    def _build(self, label: str, cell: Cell) -> Lane:
        student_name = cell.pair.student
        with seeded(self.seed, "student", student_name):
            student = StagedModel(
                student_name,
                self.dataset.num_classes,
                self.recipe.image_size,
                pretrained=self.recipe.init == "hub",
                drop_path=self.recipe.drop_path,
                split=self.recipe.split,
            )
        with seeded(self.seed, cell.method.id, "modules"):
            teacher, labels = self.teacher if cell.needs_teacher else None, torch.from_numpy(self.dataset.train.labels)
            method = cell.method(student, teacher, cell.config, labels)
        if self.options.channels_last:
            method.to(memory_format=torch.channels_last)
        return Lane(
            method,
            self.recipe,
            self.seed,
            self.accelerator,
            steps_per_epoch=self.stream.steps_per_epoch,
            accumulation=self.stream.accumulation,
            label=label,
            compile=self.options.compile,
        )

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

    def _save(self, lane: Lane) -> None:
        lane.method.before_save()
        if self.accelerator.is_main_process:
            save_checkpoint(self.tasks[lane.label].folder.checkpoints, lane.step, lane.state())
        self.accelerator.wait_for_everyone()

    def _finish(self, lane: Lane, result: Evaluation | None) -> Task:
        """Write predictions, student and, last, the record."""
        task = self.tasks[lane.label]
        if result is None:  # the last checkpoint was written after the last epoch
            result = evaluate(lane.method.student, self.evaluation, self.accelerator)
        if self.accelerator.is_main_process:
            buffer = io.BytesIO()
            np.save(buffer, result.predictions)
            write_atomic(task.folder.predictions, buffer.getvalue())
            write_atomic(task.folder.student, save(lane.method.student.export_state()))
            task.folder.finish(self._record(task, lane, result, hashlib.sha256(buffer.getvalue()).hexdigest()))
        self.accelerator.wait_for_everyone()
        return task

    def _record(self, task: Task, lane: Lane, result: Evaluation, predictions_sha256: str) -> Record:
        best = max((line for line in lane.history if line.top1 is not None), key=lambda line: line.top1)
        student = lane.method.student
        return Record(
            key=task.key,
            identity=task.identity,
            label=task.cell.label,
            method_source=task.cell.method_source,
            recipe_name=self.recipe.name,
            teacher=self.facts if task.cell.needs_teacher else None,
            student_parameters=sum(p.numel() for p in student.parameters()),
            extra_parameters=lane.method.extra_parameters(),
            result=Result(
                top1=result.top1,
                top5=result.top5,
                ema_top1=lane.history[-1].ema_top1,
                optimistic_top1=best.top1,
                optimistic_epoch=best.epoch,
            ),
            history=lane.history,
            predictions_sha256=predictions_sha256,
            weights_sha256=weights_sha256(student),
            conditions=self._conditions(lane),
        )

    def _conditions(self, lane: Lane) -> Conditions:
        cuda = self.accelerator.device.type == "cuda"
        modules = (cakdbench, torch, torchvision, timm, accelerate)
        seconds = lane.training.seconds + lane.evaluating.seconds
        energy = self.power.energy_wh(seconds)
        return Conditions(
            device=torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
            versions={"python": platform.python_version()} | {m.__name__: m.__version__ for m in modules},
            compiled=self.options.compile,
            channels_last=self.options.channels_last,
            lanes=list(self.tasks),
            seconds=seconds,
            images_per_second=lane.images_per_second,
            peak_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
            energy_wh=None if energy is None else energy * self.accelerator.num_processes,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _last_top1(lane: Lane) -> float | None:
    return next((line.top1 for line in reversed(lane.history) if line.top1 is not None), None)
