"""The work of a cell per image: counted on the meta device, or timed in a real step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from cakdbench.build import build_method
from cakdbench.costs.counting import Meter
from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.plan import Cell
from cakdbench.method import Batch, teacher_output
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel
from cakdbench.train.trainer import label_criterion
from cakdbench.utils.errors import RAISED
from cakdbench.utils.rng import seeded

TRAINING_PASSES = 3


@dataclass(frozen=True)
class Work:
    """Name what is computed per image of a cell; equal for its seeds.

    Attributes:
        samples: training images of the dataset, which memories of methods are as long as.
    """

    cell: Cell
    classes: int
    samples: int

    @property
    def key(self) -> tuple[object, ...]:
        """Return what is equal for work that takes equally long per image."""
        pair, recipe = self.cell.pair, self.cell.recipe
        teacher = pair.without_runs.teacher if self.cell.needs_teacher else None
        config = repr(self.cell.config)
        return self.cell.method.id, config, teacher, pair.student, recipe.image_size, self.classes, self.samples


class Bench:
    """A cell's method with random weights, and a batch of random images, on a device.

    On the meta device nothing is computed, and its steps can be counted.
    """

    def __init__(self, work: Work, device: torch.device, batch: int):
        cell = work.cell
        self.size = cell.recipe.image_size
        with device, Meter(), seeded("estimate"):
            make = _meta_model if device.type == "meta" else _new_model
            form = work.classes, self.size, cell.recipe.split
            student = make(cell.pair.student, *form)
            teachers = (make(name, *form, frozen=True) for name in cell.pair.teacher_models)
            self.teacher = join(teachers) if cell.needs_teacher else None
            labels = torch.arange(work.samples, device="cpu") % work.classes
            self.method = build_method(cell.method, student, self.teacher, cell.config, labels=labels).to(device)
            self.images = torch.randn(batch, 3, self.size, self.size)
            index = torch.arange(batch)
            target = index % work.classes
        self.batch = Batch(self.images, target, index, 0, 0, label_criterion(cell.recipe))
        self.method.epoch_start(0)

    @property
    def is_taught(self) -> bool:
        """Return True if the method uses the teacher's pass that all methods share."""
        return bool(self.method.needs - {"model"})

    def teach(self) -> None:
        """Compute what the teacher gives to all methods."""
        self.batch.teacher = teacher_output(self.teacher, self.images, self.method.needs)

    def losses(self) -> torch.Tensor:
        """Return the sum of all losses of a step."""
        return sum(self.method(self.batch).everything.values())

    def learn(self) -> None:
        """Make a training step, without the optimizer's part."""
        self.losses().backward()
        self.method.step_end()


def _new_model(name: str, classes: int, size: int, split: str, frozen: bool = False) -> StagedModel:
    model = StagedModel(name, classes, size, split=split)
    return model.eval().requires_grad_(False) if frozen else model


_meta_model = functools.lru_cache(maxsize=64)(_new_model)
"""Models without content are the same after any step: the methods of a plan share them."""


def list_work(cells: Iterable[Cell], data_dir: Path | None = None) -> list[Work]:
    """Return the work of every cell, in order."""
    facts = ((cell, dataset_facts(cell.pair.dataset, data_dir)) for cell in cells)
    return [Work(cell, data.num_classes, data.n_train) for cell, data in facts]


def count_macs(work: Work) -> tuple[float, float]:
    """Return the multiply-adds per image of a student's training step and of the teacher's pass before it."""
    try:
        return _count(work, torch.device("meta"))
    except RAISED:  # a method that looks into its tensors, in whatever way: they get content
        return _count(work, torch.device("cpu"))


def _count(work: Work, device: torch.device) -> tuple[float, float]:
    bench = Bench(work, device, 1)
    bench.method.eval()  # batch norms do not train on one image
    with Meter() as taught, torch.no_grad():
        if bench.is_taught:
            bench.teach()
    with Meter() as learnt, seeded("estimate"):
        bench.losses()
    return float(TRAINING_PASSES * learnt.total), float(taught.total)


def measure(work: Work, accelerator: Accelerator, batch: int) -> tuple[float, float]:
    """Return the seconds per image of a real step of the student and of the teacher's pass, on random images."""
    bench = Bench(work, accelerator.device, batch)
    bench.method.train()
    taught = _time(bench.teach, accelerator) if bench.is_taught else 0.0
    return _time(bench.learn, accelerator) / batch, taught / batch


def _time(act: Callable[[], None], accelerator: Accelerator) -> float:
    """Return the seconds of the second of two calls."""
    for _ in range(2):
        started = time.perf_counter()
        with accelerator.autocast():
            act()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - started
