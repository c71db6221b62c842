"""Leaving out the images that cannot be read: `--on-bad-image skip`."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.pool import ThreadPool

import numpy as np
from PIL import Image

from cakdbench.data.images import LEAVE_OUT
from cakdbench.data.splits import ImageDataset, Split
from cakdbench.utils.errors import UsageError


class ChosenImages:
    """Some of the images of a split."""

    def __init__(self, image: Callable[[int], Image.Image], positions: Sequence[int]):
        self.image, self.positions = image, positions

    def __call__(self, index: int) -> Image.Image:
        return self.image(self.positions[index])


def unreadable(split: Split) -> dict[int, str]:
    """Return the positions of the images that cannot be read, and why; decodes every image once."""

    def reason(index: int) -> str:
        try:
            split.image(index)
        except UsageError as error:
            return str(error)
        return ""

    with ThreadPool(os.cpu_count()) as pool:
        reasons = pool.imap(reason, range(len(split)), chunksize=64)
        return {index: reason for index, reason in enumerate(reasons) if reason}


def without_unreadable(data: ImageDataset) -> ImageDataset:
    """Return a dataset without the images that cannot be read; the dataset itself if all can.

    Which they are is part of the fingerprint.

    Raises:
        UsageError: a class has no other images.
    """
    bad = [unreadable(split) for split in (data.train, data.test)]
    if not any(bad):
        return data
    train, test = (_without(data, *half) for half in zip((data.train, data.test), bad, strict=True))
    positions = repr([sorted(half) for half in bad])
    fingerprint = hashlib.sha256(f"{data.fingerprint}\0{positions}".encode()).hexdigest()
    skipped, first = sum(map(len, bad)), next(reason for half in bad for reason in half.values())
    told = f"{data.name}: unreadable images left out: {skipped}; the first: {first.removesuffix(LEAVE_OUT)}"
    warnings.warn(told, stacklevel=2)
    return replace(data, train=train, test=test, fingerprint=fingerprint, skipped=skipped)


def _without(data: ImageDataset, split: Split, bad: dict[int, str]) -> Split:
    kept = np.setdiff1d(np.arange(len(split)), list(bad))
    labels = split.labels[kept]
    if lost := set(split.labels.tolist()) - set(labels.tolist()):
        names = ", ".join(data.class_names[label] for label in sorted(lost))
        raise UsageError(f"{data.name}: no image of {names} can be read: {next(iter(bad.values()))}")
    return Split(labels, ChosenImages(split.image, kept.tolist()))
