"""How long a plan would take: one real training step of every kind on this machine, scaled up."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator

from cakdbench.build import build_method
from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.plan import Cell
from cakdbench.method import Batch, forward_options
from cakdbench.models.staged import StagedModel
from cakdbench.train.trainer import label_criterion


def estimate_seconds(
    cells: Iterable[Cell], accelerator: Accelerator, batch: int, data_dir: Path | None = None
) -> float:
    """Seconds of training for all cells, each teacher run once for the cells that share it.

    Measured with random weights and random images on small batches: rendering images, evaluation and
    checkpoints are left out, so it is a rough figure, more often too low than too high.
    """
    clock = _Clock(accelerator, batch)
    passes: dict[tuple, float] = {}
    total = 0.0
    for cell in cells:
        facts = dataset_facts(cell.pair.dataset, data_dir)
        images = facts.n_train * cell.recipe.epochs / accelerator.num_processes
        student, teacher = clock.per_image(cell, facts.num_classes, facts.n_train)
        total += images * student
        shared = cell.pair.teacher, cell.pair.dataset, cell.recipe, cell.seed
        passes[shared] = max(passes.get(shared, 0.0), images * teacher)
    return total + sum(passes.values())


class _Clock:
    """Times one step of a cell; equal cells of other seeds and datasets are timed once."""

    def __init__(self, accelerator: Accelerator, batch: int):
        self.accelerator, self.batch = accelerator, batch
        self._known: dict[tuple, tuple[float, float]] = {}

    def per_image(self, cell: Cell, classes: int, samples: int) -> tuple[float, float]:
        """Seconds per image of the student's step and of the teacher's forward pass."""
        size = cell.recipe.image_size
        teacher = cell.pair.teacher if cell.needs_teacher else None
        key = (cell.label, repr(cell.config), teacher, cell.pair.student, size, classes, samples)
        if key not in self._known:
            self._known[key] = self._measure(cell, size, classes, samples)
        return self._known[key]

    def _measure(self, cell: Cell, size: int, classes: int, samples: int) -> tuple[float, float]:
        device = self.accelerator.device
        student = StagedModel(cell.pair.student, classes, size, split=cell.recipe.split)
        teacher = self._teacher(cell, classes) if cell.needs_teacher else None
        labels = torch.arange(samples) % classes
        method = build_method(cell.method, student, teacher, cell.config, labels=labels).to(device).train()
        method.epoch_start(0)
        images = torch.randn(self.batch, 3, size, size, device=device)
        target = torch.arange(self.batch, device=device) % classes
        batch = Batch(images, target, target, 0, 0, label_criterion(cell.recipe))

        def teach() -> None:
            with torch.no_grad():
                batch.teacher = teacher(images, **forward_options(method.needs))

        def learn() -> None:
            sum(method(batch).everything.values()).backward()
            method.step_end()

        taught = self._time(teach) if method.needs - {"model"} else 0.0
        return self._time(learn), taught

    def _teacher(self, cell: Cell, classes: int) -> StagedModel:
        net = StagedModel(cell.pair.teacher_model, classes, cell.recipe.image_size, split=cell.recipe.split)
        return net.to(self.accelerator.device).eval().requires_grad_(False)

    def _time(self, act: Callable[[], None]) -> float:
        """Seconds per image of the second of two calls."""
        for _ in range(2):
            started = time.perf_counter()
            with self.accelerator.autocast():
                act()
            if self.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
        return (time.perf_counter() - started) / self.batch
