"""Mean and deviation of pixels: named in files of one's own, or measured."""

import os
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from cakdbench.data.splits import Colour, Split
from cakdbench.models.catalog import hub_statistics
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class MeanStd(Table):
    """Mean and deviation per RGB channel, of pixel values in [0, 1]."""

    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]

    @property
    def pair(self) -> tuple[Colour, Colour]:
        return self.mean, self.std


def _of_tag(value: Any) -> Any:
    """Return the numbers in the place of a timm tag; lists become the tuples that a validator behind another wants."""
    if isinstance(value, dict):
        return {key: tuple(numbers) if isinstance(numbers, list) else numbers for key, numbers in value.items()}
    if not isinstance(value, str):
        return value
    try:
        mean, std = hub_statistics(value)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return {"mean": mean, "std": std}


Statistics = Annotated[MeanStd, BeforeValidator(_of_tag)]
"""In a file: the numbers, or the timm tag of weights that expect them."""


def measure(split: Split) -> MeanStd:
    """Return mean and deviation over all pixels of a split as they are on disk; exact, one image in memory at a time.

    Raises:
        UsageError: an image cannot be read, or a channel has one value only.
    """
    with ThreadPool(os.cpu_count()) as pool:
        pixels, sums, squares = _added(pool.imap(lambda index: _moments(split, index), range(len(split)), 64))
    spreads = [pixels * square - total * total for total, square in zip(sums, squares, strict=True)]
    if not all(spreads):
        raise UsageError("a channel of the training images has one value only, so nothing can be divided by its spread")
    mean, std = [total / (255 * pixels) for total in sums], [spread**0.5 / (255 * pixels) for spread in spreads]
    return MeanStd.model_validate({"mean": mean, "std": std})


def _moments(split: Split, index: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the pixels of an image: their number, and per channel sum `(3,)` and sum of squares `(3,)`, int64."""
    pixels = np.asarray(split.image(index)).reshape(-1, 3)
    return len(pixels), pixels.sum(0, np.int64), np.square(pixels, dtype=np.int64).sum(0)


def _added(moments: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> tuple[int, list[int], list[int]]:
    """Return the sums over all images, as integers without bounds."""
    count, sums, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    for pixels, first, second in moments:
        count, sums, squares = count + pixels, sums + first, squares + second
    return count, sums.tolist(), squares.tolist()
