"""The memory that training a method will take at its peak, predicted in about a second and without a device.

A step is made on fake tensors, which have shapes and no content, while the bytes of all that is alive are counted. For
ResNet18 on 128 images this gives the number of torch's MemTracker (2,955 MB) in an eighth of its time. What a device
takes besides is not in it: its context, workspaces of its kernels, fragmentation.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cakdbench.build import build_method
from cakdbench.engine.kept import kept
from cakdbench.engine.work import Work
from cakdbench.grid.plan import Cell
from cakdbench.method import Batch, Method, teacher_output
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel
from cakdbench.source_hash import model_source
from cakdbench.train.lane import make_optimizer
from cakdbench.train.trainer import label_criterion
from cakdbench.utils.errors import RAISED
from cakdbench.utils.rng import seeded
from cakdbench.utils.sizes import size_text


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a training step of one lane, alone.

    Attributes:
        total: all of it.
        shared: of it the teacher's weights, which further lanes share.
        kept: of it what the lane holds between steps: weights, optimizer, averages, memories.
    """

    total: int
    shared: int
    kept: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, for as long as they live.

    Attributes:
        now, peak: bytes alive at the moment, and at most since `peak` was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def add(self, tensors: Iterable[Tensor]) -> int:
        """Count the storages of tensors that are not counted yet; return how many bytes they add."""
        before = self.now
        for tensor in tensors:
            self._add(tensor.untyped_storage())
        return self.now - before

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._remove(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


class Answers(TorchDispatchMode):
    """Answers questions about the content of fake tensors as if it were zeros; real ones are computed with."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        return True if func is torch.ops.aten.equal.default else func(*args, **(kwargs or {}))


def predict_peak(work: Work) -> Peak | None:
    """Return the peak of a lane's step with the recipe's local batch; None if the method cannot go without content."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Answers(), seeded("memory"):
            return _predict(work)
    except RAISED:  # a method that looks into its tensors, in whatever way; its run says what is wrong with others
        return None


_peaks: dict[tuple[object, ...], Peak | None] = {}


def known_peak(work: Work) -> Peak | None:
    """Return the predicted peak; each kind of work is predicted once, and kept in the user's cache."""
    kind = _kind(work)
    if kind not in _peaks:
        found = kept("peaks", (*kind, *_sources(work.cell)), lambda: _as_tuple(predict_peak(work)))
        _peaks[kind] = Peak(*found) if found else None
    return _peaks[kind]


def _as_tuple(peak: Peak | None) -> tuple[int, ...] | None:
    return astuple(peak) if peak else None


def _sources(cell: Cell) -> Iterator[str | None]:
    """Yield the code that decides a peak besides that of cakdbench."""
    yield cell.method_source
    yield from map(model_source, (*cell.pair.teacher_models, cell.pair.student))


def predict_peaks(works: Iterable[Work], seconds: float = math.inf) -> tuple[list[tuple[Work, Peak | None]], int]:
    """Return works and their peaks, each kind of work once; and how many kinds no time was left for.

    Args:
        seconds: of this process's computing time, after which no further prediction is begun.
    """
    end = time.process_time() + seconds
    kinds = list({_kind(work): work for work in works}.values())
    peaks = []
    for work in kinds:
        if time.process_time() < end:
            peaks.append((work, known_peak(work)))
    return peaks, len(kinds) - len(peaks)


def advice(work: Work) -> str:
    """Return how much memory a lane takes by the prediction, and what helps one that does not find it."""
    peak, recipe = predict_peak(work), work.cell.recipe
    predicted = f"its predicted peak is {size_text(peak.total)}" if peak else "its peak cannot be predicted"
    half = "" if work.cell.precision == "bf16" else "--precision bf16, "
    smaller = f"a recipe.local_batch below {recipe.local_batch} (another protocol)"
    return f"{predicted}; take {half}{smaller} or a device with more memory"


def _kind(work: Work) -> tuple[object, ...]:
    """Return what is equal for work that takes equally much memory."""
    cell, recipe = work.cell, work.cell.recipe
    form = recipe.local_batch, recipe.split, recipe.drop_path, recipe.optimizer.name, bool(recipe.ema_decay)
    return *work.key, str(cell.pair), *form, cell.precision


def _predict(work: Work) -> Peak:
    cell, live = work.cell, LiveBytes()
    form = work.classes, cell.recipe.image_size
    split = cell.recipe.split
    teachers = (StagedModel(name, *form, split=split) for name in cell.pair.teacher_models)
    teacher = join(teachers) if cell.needs_teacher else None
    student = StagedModel(cell.pair.student, *form, drop_path=cell.recipe.drop_path, split=split)
    method = build_method(cell.method, student, teacher, cell.config, labels=_labels(work)).train()
    shared = live.add(_tensors(teacher)) if teacher else 0
    kept = live.add(_tensors(method))
    kept += live.add([torch.empty_like(p) for p in student.parameters()]) if cell.recipe.ema_decay else 0
    extra = method.extra_optimizers()
    optimizers = make_optimizer(method, cell.recipe, extra), *extra
    with live:
        _learn(method, _batch(work), cell.precision)
        in_step, live.peak = live.peak, live.now
        for optimizer in optimizers:
            optimizer.step()
    states = [tensor for optimizer in optimizers for tensor in _states(optimizer)]
    kept += sum(tensor.nbytes for tensor in states)
    return Peak(max(in_step + sum(tensor.nbytes for tensor in states), live.peak), shared, kept)


def _labels(work: Work) -> Tensor:
    with unset_fake_temporarily():
        return torch.arange(work.samples) % work.classes


def _batch(work: Work) -> Batch:
    recipe = work.cell.recipe
    index = torch.arange(recipe.local_batch)
    images = torch.zeros(recipe.local_batch, 3, recipe.image_size, recipe.image_size)
    return Batch(images, index % work.classes, index, 0, 0, label_criterion(recipe))


def _learn(method: Method, batch: Batch, precision: str) -> None:
    """Make a step but for the optimizer: the teacher's pass, the method's, and backward."""
    method.epoch_start(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        batch.teacher = teacher_output(method.teacher, batch.images, method.needs)
        losses = method(batch).everything
    sum(losses.values(), torch.zeros(())).backward()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _states(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))
