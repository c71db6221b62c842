"""The receiving side's own knowledge: data, labels, recipes, models; nothing of it comes from a bundle."""

import functools
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cakdbench.data.datasets import EMBEDDED, FACTS, ImageDataset, load_dataset
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.recipes import Recipe, all_numbers
from cakdbench.submissions.evidence import labels_name
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import read_classes
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import checked

LONGEST_NAME = 100
"""Characters of a dataset's name."""
LARGEST_IMAGE, LONGEST_TRAINING = 1024, 10_000
"""Pixels and epochs of a recipe that is still looked into."""


class Truth:
    """The receiving side.

    Args:
        labels: folder of files of test labels.
        data_dir: where the datasets lie; None if only the embedded one is to be opened. Nothing is downloaded.
    """

    def __init__(self, labels: Path, data_dir: Path | None = None):
        self.labels = labels
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

    def has_false_labels(self, name: str, fingerprint: str) -> bool:
        """Return True if the dataset is at hand and its file of labels, which boards use, says something else."""
        data, path = self.dataset(name), self.labels / labels_name(name, fingerprint)
        if data is None or data.fingerprint != fingerprint or not os.path.lexists(path):
            return False
        try:
            return not np.array_equal(read_classes(path), data.test.labels)
        except Refused:
            return True

    def _test_labels(self, name: str, fingerprint: str) -> np.ndarray | None:
        """Return the `(N,)` uint16 classes of the test images, from dataset or file; None if neither is at hand.

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
            return read_classes(path)
        stem = labels_name(name, "")[: -len(".npy")]
        others = [p for p in self.labels.glob("*.npy") if re.fullmatch(re.escape(stem) + "[0-9a-f]{16}", p.stem)]
        if data is not None or others:
            what = f"was evaluated on other data than {name}: the fingerprint {fingerprint[:16]} is unknown"
            raise Refused(what, "run on an unchanged copy of the dataset")
        return None


def read_recipe(name: str, numbers: dict[str, Any]) -> Recipe:
    """Return the recipe of a record.

    Raises:
        Refused: its numbers are not those of a recipe, or out of all bounds.
    """
    try:
        recipe = checked(Recipe, {**all_numbers(numbers), "name": name, "title": "-", "source": "-"}, "recipe")
    except UsageError as error:
        raise Refused(f"invalid recipe: {str(error)[:300]}") from error
    if json.dumps(recipe.identity(), sort_keys=True) != json.dumps(numbers, sort_keys=True):
        raise Refused("its recipe leaves numbers out or writes them in another way")
    if recipe.image_size > LARGEST_IMAGE or recipe.epochs > LONGEST_TRAINING:
        what = f"trains {recipe.epochs} epochs at {recipe.image_size} px"
        raise Refused(what, f"at most {LONGEST_TRAINING} epochs and {LARGEST_IMAGE} px are accepted")
    return recipe


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
