"""The receiving side's own knowledge: data, labels, recipes, models; nothing of it comes from a bundle."""

import functools
import os
import re
import warnings
from pathlib import Path

import numpy as np

from cakdbench.data.datasets import EMBEDDED, FACTS, ImageDataset, load_dataset
from cakdbench.data.shipped import SHIPPED, false_labels, other_data, proven_labels
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.submissions.evidence import labels_name
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import read_classes
from cakdbench.utils.errors import UsageError

LONGEST_NAME = 100
"""Characters of a dataset's name."""


class Truth:
    """The receiving side.

    Args:
        labels: folder of files of test labels; one counts if this repository knows its hash.
        data_dir: where the datasets lie; None if only the embedded one is to be opened. Nothing is downloaded.
        trusted: the files of labels are the receiving side's own, so that those of datasets of no board count too.
    """

    def __init__(self, labels: Path, data_dir: Path | None = None, trusted: bool = False):
        self.labels = labels
        self.trusted = trusted
        self.data_dir = data_dir
        self.test_labels = functools.cache(self._test_labels)

    def dataset(self, name: str) -> ImageDataset | None:
        """Return a named dataset if it is at hand; a `timm:` name would open whatever it says, so it never is."""
        if name not in FACTS or (name not in EMBEDDED and self.data_dir is None):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return load_dataset(name, self.data_dir, download=False)
        except UsageError:
            return None

    def has_false_labels(self, name: str, fingerprint: str, skipped: int = 0) -> bool:
        """Return True if its file of labels, which boards use, says something else than is known of the dataset.

        Args:
            skipped: how many images its runs have left out.
        """
        data, path = self.dataset(name), self.labels / labels_name(name, fingerprint)
        if not os.path.lexists(path):
            return False
        try:
            labels = read_classes(path)
        except Refused:
            return True
        if data is not None and data.fingerprint == fingerprint:
            return not np.array_equal(labels, data.test.labels)
        return bool(false_labels(name, fingerprint, labels, skipped))

    def _test_labels(self, name: str, fingerprint: str) -> np.ndarray | None:
        """Return the `(N,)` uint16 classes of the test images, from dataset or file; None if neither can be relied on.

        Raises:
            Refused: what is at hand under this name has another fingerprint, or the file is damaged.
        """
        if len(name) > LONGEST_NAME or not re.fullmatch("[0-9a-f]{64}", fingerprint):
            raise Refused("its dataset has no proper name and fingerprint")
        data = self.dataset(name)
        if data is not None and data.fingerprint == fingerprint:
            return data.test.labels.astype(np.uint16)
        path = self.labels / labels_name(name, fingerprint)
        if data is None and os.path.lexists(path):
            labels = read_classes(path)
            own = self.trusted and name not in SHIPPED
            return labels if own or proven_labels(name, fingerprint, labels) else None
        stem = labels_name(name, "")[: -len(".npy")]
        others = [p for p in self.labels.glob("*.npy") if re.fullmatch(re.escape(stem) + "[0-9a-f]{16}", p.stem)]
        if data is not None or other_data(name, fingerprint) or (others and self.trusted):
            what = f"was evaluated on other data than {name}: the fingerprint {fingerprint[:16]} is unknown"
            raise Refused(what, "run on an unchanged copy of the dataset")
        return None


@functools.lru_cache(maxsize=64)
def bare_model(name: str, classes: int, image_size: int, split: str) -> StagedModel:
    """Return a model without weights.

    Raises:
        Refused: it cannot be built.
    """
    try:
        return meta_model(name, classes, image_size, split)
    except Exception as error:  # names and sizes are a stranger's, and timm's networks raise anything
        what = f"the model {name} cannot be built at {image_size} px ({str(error)[:200]})"
        raise Refused(what) from error
