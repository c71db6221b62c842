"""Images held out of the training set, on which settings are tuned: no test image and no test label is read.

`NAME:holdout` is a dataset of its own: it trains on the rest of NAME's training images and tests on those held out. As
many are held out as NAME has test images, a fifth at most; of every class the same share; always the same ones.
"""

import hashlib
from dataclasses import replace

import numpy as np

from cakdbench.data.splits import ImageDataset, Split
from cakdbench.data.unreadable import ChosenImages
from cakdbench.utils.errors import UsageError

SUFFIX = ":holdout"


def holdout_name(name: str) -> str:
    """Return the name of the dataset with images held out of another's training set."""
    return whole_name(name) + SUFFIX


def whole_name(name: str) -> str:
    """Return the name of the dataset whose training images were divided; of any other dataset its own."""
    return name.removesuffix(SUFFIX)


def is_holdout(name: str) -> bool:
    """Tell whether a dataset tests on images held out of a training set."""
    return name.endswith(SUFFIX)


def held_count(n_train: int, n_test: int) -> int:
    """Return how many training images are held out."""
    return min(n_test, n_train // 5)


def held_positions(labels: np.ndarray, count: int) -> np.ndarray:
    """Return `(count,)` positions among `labels` `(N,)`, ascending: of every class its share, up to one image."""
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(count) * len(labels) // count])


def hold_out(data: ImageDataset) -> ImageDataset:
    """Return a dataset whose training set is divided in two, the smaller part in the place of its test set.

    Raises:
        UsageError: there are too few training images.
    """
    count = held_count(len(data.train), len(data.test))
    if not count:
        raise UsageError(f"{data.name} has {len(data.train)} training images: too few to hold some out for tuning")
    held = held_positions(data.train.labels, count)
    rest = np.setdiff1d(np.arange(len(data.train)), held)
    content = f"{data.fingerprint}\0held out".encode() + held.astype("<i8").tobytes()
    return replace(
        data,
        name=holdout_name(data.name),
        train=_chosen(data.train, rest),
        test=_chosen(data.train, held),
        fingerprint=hashlib.sha256(content).hexdigest(),
        whole=data,
    )


def _chosen(split: Split, positions: np.ndarray) -> Split:
    return Split(split.labels[positions], ChosenImages(split.image, positions.tolist()))
