"""Augmented training images as bytes, and what a device makes of them.

Floats are four times as large to render, to hand from process to process and to send. So images are normalised, erased
and mixed only in the training process, on its device, in the order of timm's transforms and to the same values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from timm.data.transforms import MaybeToTensor
from torch import Tensor

from cakdbench.data.augment import mixing, train_transform
from cakdbench.data.splits import Colour, ImageDataset
from cakdbench.utils.rng import seeded

if TYPE_CHECKING:
    from PIL import Image

    from cakdbench.recipes import Recipe


class MicroBatch(NamedTuple):
    """The name of a local batch."""

    epoch: int
    step: int
    micro_batch: int


@dataclass
class Views:
    """One local batch as it is rendered.

    Attributes:
        pixels: `(L, S, S, 3)` uint8.
        target: `(L,)` int64 classes.
        index: `(L,)` int64 positions in the training set.
        noise: `(N,)` float32, what fills the erased boxes.
        places: `(N,)` int64, where it does among all numbers of the images `(L, 3, S, S)`: one write for all boxes.
    """

    pixels: Tensor
    target: Tensor
    index: Tensor
    noise: Tensor
    places: Tensor
    name: MicroBatch

    def pin_memory(self) -> "Views":
        """Called by torch's DataLoader, for asynchronous copies to a GPU."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in TENSORS})

    def to(self, device: torch.device) -> "Views":
        """Return the views on a device, whose copies are not waited for."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in TENSORS})


TENSORS = ("pixels", "target", "index", "noise", "places")


@dataclass
class Samples:
    """One local batch as training sees it.

    Attributes:
        images: `(L, 3, S, S)` float32, normalised with the dataset's statistics.
        target: `(L,)` int64 classes, or `(L, C)` float32 probabilities under mixup and cutmix.
        index: `(L,)` int64 positions in the training set.
        step: within the epoch.
        micro_batch: which local batch of the step's global batch.
    """

    images: Tensor
    target: Tensor
    index: Tensor
    epoch: int
    step: int
    micro_batch: int


class Canvas:
    """Stands for an image `(3, S, S)` before timm's RandomErasing, and remembers what is written into it."""

    dtype = torch.float32

    def __init__(self, size: int):
        self.shape = (3, size, size)
        self.noise, self.places = torch.empty(0), torch.empty(0, dtype=torch.long)

    def size(self) -> tuple[int, int, int]:
        return self.shape

    def __setitem__(self, where: tuple[slice, slice, slice], pixels: Tensor) -> None:
        """Called at most once: timm erases one box."""
        self.noise = pixels.flatten()
        self.places = torch.arange(math.prod(self.shape)).view(self.shape)[where].flatten()


class Draw:
    """Draws a view of an image: its bytes, and what of it is erased; from the global generators, as timm does."""

    def __init__(self, dataset: ImageDataset, recipe: "Recipe"):
        steps = train_transform(dataset, recipe).transforms
        end = next(number for number, step in enumerate(steps) if isinstance(step, MaybeToTensor))
        self.steps, self.erase = steps[:end], steps[end + 2 :]  # between them: to floats, and normalised
        self.size = recipe.image_size

    def __call__(self, image: "Image.Image") -> tuple[np.ndarray, Canvas]:
        """Return `(S, S, 3)` uint8 and the canvas that was erased."""
        canvas = Canvas(self.size)
        for step in self.steps:
            image = step(image)
        for step in self.erase:
            step(canvas)
        return np.asarray(image), canvas


def collect(drawn: Sequence[tuple[np.ndarray, Canvas]], target: Tensor, index: Tensor, name: MicroBatch) -> Views:
    """Return the views of a local batch."""
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in drawn]))
    noise = torch.cat([canvas.noise for _, canvas in drawn])
    places = torch.cat([canvas.places + row * pixels[0].numel() for row, (_, canvas) in enumerate(drawn)])
    return Views(pixels, target, index, noise, places, name)


class Normalise:
    """Makes of bytes `(..., 3, S, S)` float32, normalised, on their device and to the same values on every device."""

    def __init__(self, mean: Colour, std: Colour):
        # A tensor, since a GPU divides by a number of Python's by way of its reciprocal, which rounds otherwise.
        shape = 3, 1, 1
        self.numbers = [torch.tensor(255.0), torch.tensor(mean).view(shape), torch.tensor(std).view(shape)]

    def __call__(self, images: Tensor) -> Tensor:
        if self.numbers[0].device != images.device:
            self.numbers = [number.to(images.device, non_blocking=True) for number in self.numbers]
        largest, mean, std = self.numbers
        return images.float().div_(largest).sub_(mean).div_(std)


class Finish:
    """Makes of views, on a device, the samples that training sees: normalised, erased, mixed.

    Args:
        seed: of the run.
    """

    def __init__(self, dataset: ImageDataset, recipe: "Recipe", seed: int):
        self.normalise = Normalise(dataset.mean, dataset.std)
        self.mix = mixing(dataset, recipe)
        self.seed = seed

    def __call__(self, views: Views, device: torch.device) -> Samples:
        sent = views.to(device)
        images, target = self.normalise(sent.pixels.permute(0, 3, 1, 2).contiguous()), sent.target
        images.view(-1)[sent.places] = sent.noise
        if self.mix:
            with seeded(self.seed, "mix", *views.name):
                images, target = self.mix(images, target)
        return Samples(images, target, sent.index, *views.name)
