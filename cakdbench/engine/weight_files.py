"""Weights that teachers bring: files, found or downloaded, and those of timm's hub."""

import re
from pathlib import Path

import torch

from cakdbench.data.classes import class_order
from cakdbench.data.datasets import ImageDataset
from cakdbench.grid.teachers import TeacherEntry
from cakdbench.models.catalog import hub_classes, hub_weights_are_here
from cakdbench.models.checkpoints import read_checkpoint
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, permute_classes
from cakdbench.utils.errors import TeacherError, UsageError


class WeightFiles:
    """The weights of entries that name a file or a tag of the hub.

    Args:
        folder: where weight files lie, or are downloaded to.
        download: fetch weights that are not at hand.
    """

    def __init__(self, folder: Path, download: bool = True):
        self.folder = folder
        self.download = download

    def check_hub(self, entry: TeacherEntry, num_classes: int) -> None:
        """Raise TeacherError if an entry's weights of the hub cannot be had, or are of other classes."""
        if not entry.hub:
            return
        check_hub_classes(entry.hub, num_classes)
        if not (self.download or hub_weights_are_here(entry.hub)):
            raise TeacherError(f"the weights {entry.hub} of timm's hub are not here yet: a run downloads them")

    def fill(self, net: StagedModel, entry: TeacherEntry, dataset: ImageDataset) -> str:
        """Load an entry's file, a hub's weights are in the net already, and put the classes in the dataset's order.

        Returns:
            A note where a file's averaged weights were taken.

        Raises:
            TeacherError: the file cannot be had, or the classes are not the dataset's.
            WeightsError: it is none of this model.
        """
        note = ""
        if not entry.hub:
            checkpoint = read_checkpoint(self.fetch(entry))
            load_weights(net, checkpoint.state)
            note = f" ({checkpoint.taken})" if checkpoint.averaged else ""
        if entry.classes:
            permute_classes(net, _order(entry, dataset))
        return note

    def fetch(self, entry: TeacherEntry) -> Path:
        """Return the file of an entry's weights, downloaded if it is not there yet.

        Raises:
            TeacherError: it is not there and cannot be had.
        """
        path = self.path(entry)
        if not path.is_file():
            self._download(entry, path)
        return path

    def path(self, entry: TeacherEntry) -> Path:
        """Return where an entry's weights lie, or will."""
        if entry.path:
            return Path(entry.path)
        return self.folder / (entry.file or re.sub(r"[^\w.@-]+", "-", f"{entry.model}@{entry.dataset}.pth"))

    def _download(self, entry: TeacherEntry, path: Path) -> None:
        try:
            if not (entry.url and self.download):
                raise OSError("the file does not exist" + ("" if entry.url else " and its entry has no url"))
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(path), progress=False)
        except OSError as error:
            raise TeacherError(
                f"no weights for the teacher {entry.model} on {entry.dataset} ({error}): put the file at {path}"
                + (f" (from {entry.url})" if entry.url else "")
            ) from error


def check_hub_classes(tag: str, num_classes: int) -> None:
    """Check that hub weights teach the dataset's classes: with others, timm would draw a new head.

    Raises:
        TeacherError: the weights have another number of classes.
        UsageError: timm has no weights of this name.
    """
    classes = hub_classes(tag)
    if classes != num_classes:
        raise TeacherError(
            f"the hub weights {tag} tell {classes} classes apart and the dataset has {num_classes}: take weights that "
            "were fine-tuned on it, or train a teacher with `cakdbench teacher train`"
        )


def _order(entry: TeacherEntry, dataset: ImageDataset) -> list[int]:
    """Return the output of the teacher's head for each class of the dataset.

    Raises:
        TeacherError: the entry's classes are not the dataset's.
    """
    try:
        return class_order(dataset.class_names, entry.classes or (), f"the teacher {entry.model}")
    except UsageError as error:
        raise TeacherError(f"the teacher {entry.model} on {dataset.name}: {error}") from error
