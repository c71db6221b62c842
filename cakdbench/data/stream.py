"""The one stream of samples that all methods see.

Every random choice is a function of names: the order of (seed, epoch), a view of (seed, epoch, sample), mixup
and cutmix of (seed, epoch, step, micro_batch). Nothing depends on workers, processes, or what ran before. A step's
global batch is cut into local batches, its micro-batches; process r of w renders micro-batches r, r + w, ...
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cakdbench.data.augment import eval_transform, mixing
from cakdbench.data.renderers import items, prepare_renderer
from cakdbench.data.splits import ImageDataset, Split
from cakdbench.data.views import Canvas, Draw, Finish, MicroBatch, Normalise, Views, collect
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.rng import derive, reseed, seeded

if TYPE_CHECKING:
    from cakdbench.recipes import Recipe

CACHE_BYTES = 256 * 2**20
"""Test images are kept in memory up to this size."""


@functools.lru_cache(maxsize=8)
def order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return `(size,)` the permutation of the training set in an epoch, by NumPy's generator of frozen output."""
    return np.random.RandomState(derive(seed, "order", epoch) % 2**32).permutation(size)


class LocalBatches(Dataset):
    """The local batches of a training run: `batches[MicroBatch(epoch, step, micro_batch)]` renders any, at any time.

    Args:
        seed: of the run.
    """

    def __init__(self, dataset: ImageDataset, recipe: "Recipe", seed: int):
        self.split = dataset.train
        self.seed = seed
        self.global_batch = recipe.global_batch
        self.local_batch = recipe.local_batch
        self.draw = Draw(dataset, recipe)

    def indices(self, name: MicroBatch) -> np.ndarray:
        """Return `(L,)` positions in the training set of the samples in a local batch."""
        start = name.step * self.global_batch + name.micro_batch * self.local_batch
        return order(self.seed, name.epoch, len(self.split))[start : start + self.local_batch].copy()

    def __getitem__(self, name: MicroBatch) -> Views:
        indices = self.indices(name)
        with seeded(self.seed, *name):
            drawn = [self._view(name.epoch, int(index)) for index in indices]
        return collect(drawn, torch.from_numpy(self.split.labels[indices]), torch.from_numpy(indices), name)

    def _view(self, epoch: int, index: int) -> tuple[np.ndarray, Canvas]:
        """Return the augmented sample; leaves the global generators seeded."""
        reseed(self.seed, "view", epoch, index)
        return self.draw(self.split.image(index))


class SampleStream:
    """The training samples of one process, step by step.

    Iterate over one epoch at a time: worker processes are shared between epochs. What it yields are bytes, of which
    `stream.finish(views, device)` makes samples.

    Args:
        seed: of the run.
        workers: processes that render ahead; 0 renders in this one. The samples are the same.
        rank: of this process among `world` processes.
        pin_memory: for asynchronous copies to a GPU.

    Raises:
        UsageError: the recipe's batches do not fit the data or the processes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        recipe: "Recipe",
        seed: int,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ):
        check_batches(dataset, recipe, world)
        self.dataset = dataset
        self.recipe = recipe
        self.seed = seed
        self.micro_batches = range(rank, recipe.global_batch // recipe.local_batch, world)
        self.batches = LocalBatches(dataset, recipe, seed)
        self.finish = Finish(dataset, recipe, seed)
        self._names: list[MicroBatch] = []
        self._loader = _loader(
            self.batches, self._names, workers, pin_memory=pin_memory, persistent_workers=workers > 0
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; the last, incomplete global batch is dropped."""
        return len(self.dataset.train) // self.recipe.global_batch

    @property
    def accumulation(self) -> int:
        """Local batches per step in this process."""
        return len(self.micro_batches)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Views]]:
        """Yield this process's local batches of every step from `start_step` on."""
        steps = range(start_step, self.steps_per_epoch)
        self._names[:] = [MicroBatch(epoch, step, micro_batch) for step in steps for micro_batch in self.micro_batches]
        batches = items(self._loader)
        for _ in steps:
            yield [next(batches) for _ in self.micro_batches]


def check_batches(dataset: ImageDataset, recipe: "Recipe", world: int, owner: str = "recipe") -> None:
    """Check that a recipe's batches fit the data and the processes.

    Args:
        owner: of the settings that would mend it: "recipe", or "teacher" for one that is trained first.

    Raises:
        UsageError: they do not.
    """
    size, whole, local = len(dataset.train), recipe.global_batch, recipe.local_batch
    if whole > size:
        raise UsageError(
            f"the {owner}'s global_batch {whole} exceeds the {size} training images of {dataset.name}: "
            + _fitting_batches(size, recipe, world, owner, even=bool(mixing(dataset, recipe)))
        )
    if whole % (local * world):
        fitting = ", ".join(str(n) for n in range(1, whole // local + 1) if whole % (local * n) == 0)
        start = f"start {fitting} processes, or " if fitting and world > 1 else ""
        raise UsageError(
            f"the {owner}'s global_batch {whole} is no multiple of {world} processes x local_batch {local}: "
            f"{start}set {owner}.local_batch to a divisor of {whole // world}"
        )
    if mixing(dataset, recipe) and local % 2:
        raise UsageError(
            f"mixup and cutmix pair the samples of a local batch, so {local} is odd one out: "
            f"set {owner}.local_batch to an even number"
        )


def _fitting_batches(size: int, recipe: "Recipe", world: int, owner: str, even: bool) -> str:
    """Return how to set the largest batches that so many images and processes can fill."""
    local = min(recipe.local_batch, size // world)
    local -= local % 2 if even else 0
    if local < 1:
        return f"start fewer processes than {world}"
    whole = f"set {owner}.global_batch={size // (local * world) * local * world}"
    return whole if local == recipe.local_batch else f"{whole} and {owner}.local_batch={local}"


def _loader(
    batches: Dataset, names: Sequence, workers: int, *, pin_memory: bool = False, persistent_workers: bool = False
) -> DataLoader:
    """Return a loader of batches, or of the errors in their place, in the order of their `names`."""
    return DataLoader(
        _OrError(batches),
        batch_size=None,
        sampler=names,
        num_workers=workers,
        generator=torch.Generator(),  # else it draws a seed from torch's global one, which the engine seeds
        worker_init_fn=prepare_renderer,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
    )


class _OrError(Dataset):
    """Gives an error as an item, since a DataLoader makes a traceback the message of what a worker raises."""

    def __init__(self, batches: Dataset):
        self.batches = batches

    def __getitem__(self, name: Any) -> Any:
        try:
            return self.batches[name]
        except CakdError as error:
            return error


class EvalBatches(Dataset):
    """Images in order; an item is a batch: `(B, 3, S, S)` uint8 images, `(B,)` labels, `(B,)` positions."""

    def __init__(self, split: Split, recipe: "Recipe", batch_size: int):
        self.split = split
        self.batch_size = batch_size
        self.transform = eval_transform(recipe)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        start = number * self.batch_size
        index = np.arange(start, min(start + self.batch_size, len(self.split)))
        images = torch.stack([self.transform(self.split.image(int(i))) for i in index])
        return images, torch.from_numpy(self.split.labels[index]), torch.from_numpy(index)


class EvalStream:
    """The images of a split in order, for evaluation: a function of the dataset and the recipe alone.

    Iterating gives images `(B, 3, S, S)` float32, normalised, labels `(B,)` and positions `(B,)` in the
    split; the last batch may be smaller. Process r of w gets batches r, r + w, ... Small sets stay in memory.

    Args:
        workers: processes that decode ahead; 0 decodes in this one. The images are the same.
        pin_memory: for asynchronous copies of the images to a GPU.
        change: of the uint8 images `(B, 3, S, S)`, given their positions too, before they are normalised.
    """

    def __init__(
        self,
        split: Split,
        dataset: ImageDataset,
        recipe: "Recipe",
        *,
        workers: int = 0,
        batch_size: int = 256,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
        change: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        numbers = range(rank, -(-len(split) // batch_size), world)
        self._loader = _loader(EvalBatches(split, recipe, batch_size), numbers, workers)
        self._keep = len(split) * 3 * recipe.image_size**2 <= CACHE_BYTES
        self._kept: list = []
        self._pin_memory = pin_memory
        self._change = change
        self._normalise = Normalise(dataset.mean, dataset.std)

    def changed(self, change: Callable[[Tensor, Tensor], Tensor]) -> "EvalStream":
        """Return the same images with a change of their own; those that are in memory are shared."""
        other = copy.copy(self)
        other._change = change
        return other

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return self.on(torch.device("cpu"))

    def on(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate with the images on a device: they are sent as bytes, and normalised there to the same values."""
        if self._keep and not self._kept:
            self._kept += list(items(self._loader))  # all or, where one cannot be read, none
        for images, labels, index in self._kept or items(self._loader):
            if self._change:
                images = self._change(images, index)
            images = images.pin_memory() if self._pin_memory and device.type == "cuda" else images
            yield self._normalise(images.to(device, non_blocking=True)), labels, index
