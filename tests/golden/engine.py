"""Golden runs of the engine: what renders, trains, averages and evaluates, on images and models of a few seconds."""

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cakdbench.data.splits import ImageDataset, from_arrays
from cakdbench.data.views import Samples
from cakdbench.engine.group import Group
from cakdbench.engine.inits import Inits
from cakdbench.engine.task import Task
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Cell, Settings, make_plan
from cakdbench.grid.suites import PairSpec
from cakdbench.records import TeacherIdentity
from cakdbench.store import RunFolder, Store
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Runtime
from cakdbench.utils.device import make_accelerator

from . import inputs
from .files import ENGINE, Values
from .modes import SharedDraws
from .steps import SEED, Direction, norm

METHOD = "fitnet"
"""Has extra modules, so that they take part in what the engine starts, optimises and clips."""

RUNS: dict[Direction, dict[str, Any]] = {
    Direction("msa", "cnn"): {
        "augment.crop": "pad",
        "augment.pad": 4,
        "augment.color_jitter": 0.4,
        "augment.interpolation": "bilinear",
        "schedule.name": "multistep",
        "schedule.decay_epochs": (2,),
        "schedule.per": "epoch",
        "optimizer.lr": 0.05,
        "ema_decay": 0.9,
        "evaluation.crop_pct": 0.875,
    },
    Direction("cnn", "msa"): {
        "augment.crop": "rrc",
        "augment.auto_augment": "rand-m9-mstd0.5-inc1",
        "augment.reprob": 0.5,
        "augment.mixup": 0.8,
        "augment.cutmix": 1.0,
        "schedule.warmup_epochs": 1,
        "schedule.warmup_lr": 1e-4,
        "schedule.min_lr": 1e-4,
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.betas": (0.9, 0.99),
        "clip_grad": 1.0,
        "drop_path": 0.2,
    },
}
"""What the recipes of the runs have that `recipe.toml` has not, by kinds of teacher and student."""


def run_all() -> dict[str, Values]:
    """Run the engine on all of `RUNS`."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: values for direction in RUNS for name, values in run(direction, Path(folder)).items()}


def run(direction: Direction, folder: Path) -> dict[str, Values]:
    """Train for two epochs of three steps; give the numbers of rendered batches and of the epochs."""
    with SharedDraws():
        group = WatchedGroup(direction, folder / str(direction))
        group.train()
        return {f"{ENGINE}, {direction}, {name}": values for name, values in group.seen()}


def blocks() -> ImageDataset:
    """Return 28 training and 30 test images of coloured blocks, 24 x 32: three steps, and some images left over."""
    halves = [_drawn(28, 0), _drawn(30, 1)]
    names = tuple("abcdefghij")
    return from_arrays("blocks", *halves, class_names=names, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.25))


def _drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.RandomState(seed).randint(0, 256, (count, 6, 8, 3)).astype(np.uint8)
    return images.repeat(4, 1).repeat(4, 2), np.arange(count) % inputs.CLASSES


class WatchedGroup(Group):
    """A group of one run, whose numbers are taken at the end of every epoch."""

    def __init__(self, direction: Direction, folder: Path):
        teacher = copy.deepcopy(inputs.teacher(direction.teacher, inputs.SIZE)).float()
        data, cell = blocks(), _cell(direction)
        identity = cell.identity(data, TeacherIdentity(model=teacher.name, sha256="0" * 64))
        folder.mkdir()  # as the lock does, of the harness
        tasks = [Task(cell, identity, RunFolder(folder))]
        super().__init__(tasks, data, teacher, None, Runtime(make_accelerator(cpu=True)), Inits(Store(folder)))
        self.epochs: list[Values] = []

    def _build(self, label: str, cell: Cell) -> Lane:
        lane = super()._build(label, cell)
        self.start = copy.deepcopy(lane.method.student)
        return lane

    def save(self, lane: Lane) -> None:
        super().save(lane)
        student = copy.deepcopy(lane.method.student).eval()
        with torch.no_grad():
            logits = [student(images).logits for images, *_ in self.evaluation]
        self.epochs.append(
            lane.history[-1].losses
            | {name: value for name in LINE if (value := getattr(lane.history[-1], name)) is not None}
            | {"start": norm(self.start.parameters()), "moved": _distance(student, self.start)}
            | {"averaged": _distance(lane.ema.module, student) if lane.ema else 0.0, "logits": norm(logits)}
            | {"buffers": norm(b for b in student.buffers() if b.is_floating_point())}
        )

    def seen(self) -> Iterator[tuple[str, Values]]:
        """Yield the first step's batches of every epoch, the epochs, and the record's accuracies."""
        for epoch, values in enumerate(self.epochs):
            for views in next(self.stream.epoch(epoch)):
                samples = self.stream.finish(views, torch.device("cpu"))
                yield f"epoch {epoch}, batch {samples.micro_batch}", _marks(samples)
            yield f"epoch {epoch}", values
        [task] = self.tasks.values()
        result = task.folder.record().result
        yield "result", {"top1": result.top1, "top5": result.top5}


LINE = ("lr", "train_top1", "top1", "ema_top1")


def _cell(direction: Direction) -> Cell:
    teacher, student = (inputs.MODELS[kind] for kind in direction)
    spec = PairSpec(Pair(teacher, student, "fashion_demo"), "demo")
    [cell] = (cell for cell in make_plan([METHOD], [spec], [SEED], Settings()).cells if cell.method.id == METHOD)
    return replace(cell, recipe=inputs.recipe().override(RUNS[direction]))


def _distance(one: nn.Module, other: nn.Module) -> float:
    return norm(a.detach() - b.detach() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def _marks(samples: Samples) -> Values:
    return {name: _mark(getattr(samples, name)) for name in ("images", "target", "index")}


def _mark(x: Tensor) -> float:
    """Return a number that tells tensors of one shape apart: their product with noise, of about their own size."""
    noise = np.random.RandomState(0).standard_normal(tuple(x.shape))
    return float((x.numpy() * noise).sum() / x.numel() ** 0.5)
