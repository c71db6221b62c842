"""What this repository knows of the test labels of the boards' datasets, so that no submission can bring its own."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shipped:
    """The test labels of a dataset.

    Attributes:
        per_class: test images of each class; these datasets have as many of every one.
        fingerprint: of the dataset. labels: sha256 of its test labels, see `labels_sha256`. None until somebody with
            the data has entered what `cakdbench data check` prints.
    """

    classes: int
    per_class: int
    fingerprint: str | None = None
    labels: str | None = None


SHIPPED = {
    "fashion_demo": Shipped(
        10,
        200,
        "3327811acb3604aa8f1e2dc5c77748078b7298743bb65283bfc0682d24cb3802",
        "dfa44f40c4eda45c4a5f69aceb9c545387fa1215eeef4080fe483a944c47ca4d",
    ),
    "fashion_mnist": Shipped(10, 1000),
    "cifar10": Shipped(10, 1000),
    "cifar100": Shipped(100, 100),
    "imagenet1k": Shipped(1000, 50),
}


def labels_sha256(labels: np.ndarray) -> str:
    """Return the sha256 of `(N,)` classes as little-endian uint16."""
    return hashlib.sha256(labels.astype("<u2").tobytes()).hexdigest()


def other_data(dataset: str, fingerprint: str) -> bool:
    """Return True if a fingerprint is known not to be the dataset's."""
    known = SHIPPED.get(dataset)
    return known is not None and known.fingerprint not in (None, fingerprint)


def proven_labels(dataset: str, fingerprint: str, labels: np.ndarray) -> bool:
    """Return True if `(N,)` test labels are known to be the dataset's, by their hash."""
    known = SHIPPED.get(dataset)
    return known is not None and (known.fingerprint, known.labels) == (fingerprint, labels_sha256(labels))


def false_labels(dataset: str, fingerprint: str, labels: np.ndarray, skipped: int = 0) -> str | None:
    """Return why `(N,)` test labels cannot be the dataset's; None if they can, or nothing is known of it.

    Args:
        skipped: how many images may have been left out, as they could not be read.
    """
    known = SHIPPED.get(dataset)
    if known is None:
        return None
    if fingerprint == known.fingerprint:
        skipped = 0  # it is that of the whole data
    if known.labels is not None and not skipped:
        return None if labels_sha256(labels) == known.labels else "their hash is another"
    counts = np.bincount(labels, minlength=known.classes)
    absent = known.per_class - counts
    if len(counts) == known.classes and absent.min() >= 0 and absent.sum() <= skipped:
        return None
    but = f", but for {skipped} that were left out" if skipped else ""
    return f"not {known.per_class} images of each of {known.classes} classes{but}"
