"""What a finished run leaves in its folder: predictions, weights and, last, the record."""

import hashlib
import io
import platform
from datetime import UTC, datetime
from typing import cast

import accelerate
import numpy as np
import timm
import torch
import torchvision

import cakdbench
from cakdbench.data.datasets import FACTS, ImageDataset
from cakdbench.engine.energy import PowerMeter, energy_counter
from cakdbench.engine.task import Task
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import weights_sha256
from cakdbench.recipes import Recipe
from cakdbench.records import Conditions, Corrupted, Record, Result, TeacherFacts
from cakdbench.store import RunFolder
from cakdbench.students.weights import ImageFacts, module_state, weight_bytes
from cakdbench.train.evaluate import Evaluation
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Runtime
from cakdbench.utils.device import device_name


class Recorder:
    """Writes the runs of one group; it measures the device's power from the start on.

    Args:
        facts: what the verification measured of the teacher.
        labels: of all lanes that were begun together.
    """

    def __init__(
        self, recipe: Recipe, dataset: ImageDataset, facts: TeacherFacts | None, runtime: Runtime, labels: list[str]
    ):
        self.recipe, self.dataset, self.facts, self.labels = recipe, dataset, facts, labels
        self.options, self.accelerator = runtime.options, runtime.accelerator
        self.power = PowerMeter(energy_counter(self.accelerator.device))

    def write(
        self, task: Task, lane: Lane, tested: Evaluation, networks: dict[str, float], corrupted: list[Corrupted]
    ) -> None:
        """Write everything of a finished lane.

        Args:
            networks: top-1 of the further networks that its method has evaluated, in percent.
            corrupted: accuracies under the recipe's corruptions.
        """
        buffer = io.BytesIO()
        np.save(buffer, tested.predictions)
        task.folder.write(task.folder.predictions, buffer.getvalue())
        self._write_weights(task.folder, lane)
        result = _result(lane, tested, networks, corrupted)
        task.folder.finish(self._record(task, lane, result, hashlib.sha256(buffer.getvalue()).hexdigest()))

    def _write_weights(self, folder: RunFolder, lane: Lane) -> None:
        facts = ImageFacts.of(self.dataset)
        folder.write(folder.student, weight_bytes(lane.method.student.export_state(), facts))
        if lane.ema and self.options.keep_ema:
            averaged = cast(StagedModel, lane.ema.module)
            folder.write(folder.ema, weight_bytes(averaged.export_state(), facts))
        if self.options.keep_modules and (state := module_state(lane.method)):
            folder.write(folder.modules, weight_bytes(state, facts))

    def _record(self, task: Task, lane: Lane, result: Result, predictions_sha256: str) -> Record:
        student = lane.method.student
        return Record(
            key=task.key,
            identity=task.identity,
            label=task.cell.label,
            method_source=task.cell.method_source,
            recipe_name=self.recipe.name,
            class_names=None if self.dataset.name in FACTS else self.dataset.class_names,
            tuning=task.cell.tuning,
            teacher=self.facts if task.cell.needs_teacher else None,
            student_parameters=sum(p.numel() for p in student.parameters()),
            extra_parameters=lane.method.extra_parameters(),
            result=result,
            history=lane.history,
            predictions_sha256=predictions_sha256,
            weights_sha256=weights_sha256(student),
            conditions=self._conditions(lane),
        )

    def _conditions(self, lane: Lane) -> Conditions:
        seconds = lane.training.seconds + lane.evaluating.seconds
        energy = self.power.energy_wh(seconds)
        return Conditions(
            device=device_name(self.accelerator.device),
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
            versions=versions(),
            compiled=self.options.compile,
            channels_last=self.options.channels_last,
            lanes=self.labels,
            seconds=seconds,
            images_per_second=lane.images_per_second,
            peak_memory_mb=lane.peak / 2**20 if lane.peak else None,
            energy_wh=None if energy is None else energy * self.accelerator.num_processes,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    packages = (cakdbench, torch, torchvision, timm, accelerate)
    return {"python": platform.python_version()} | {package.__name__: package.__version__ for package in packages}


def _result(lane: Lane, tested: Evaluation, networks: dict[str, float], corrupted: list[Corrupted]) -> Result:
    evaluated = [line for line in lane.history if line.top1 is not None]
    best = max(evaluated, key=lambda line: cast(float, line.top1))
    return Result(
        top1=tested.top1,
        top5=tested.top5,
        ema_top1=lane.history[-1].ema_top1,
        optimistic_top1=best.top1,
        optimistic_epoch=best.epoch,
        networks=networks or None,
        corruptions=tuple(corrupted) or None,
    )
