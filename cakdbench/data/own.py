"""Datasets of the user's own, as a TOML file describes them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cakdbench.data import own_sources
from cakdbench.data.classes import in_order, own_fingerprint
from cakdbench.data.own_sources import Columns, Parts, Place
from cakdbench.data.saved import saved_on_disk
from cakdbench.data.splits import ImageDataset
from cakdbench.data.statistics import Statistics
from cakdbench.data.timm_datasets import load_timm
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table, checked, read_toml

SOURCES = {
    "folder": own_sources.folder,
    "csv": own_sources.csv_file,
    "npz": own_sources.arrays,
    "hf": saved_on_disk,
}
Fraction = Annotated[float, Field(gt=0, lt=1)]
TIMM = "timm:"
FILE = """[[datasets]]
name = "pets"            # as in --pairs "swin_t>resnet18@pets"
source = "csv"           # or "folder", "npz", "hf" (of datasets.save_to_disk), "timm:..."
path = "labels.csv"      # relative to this file
"""


class DatasetEntry(Table):
    """One dataset of the user's own.

    Attributes:
        name: in pairs and results.
        source: "folder", "csv", "npz", "hf", or `timm:...` as without a file.
        path: its folder or file; a relative one is taken from the folder of the TOML file.
        columns: the names of what holds images, labels and splits, where they are not the usual ones.
        splits: the names of the splits, likewise.
        test_fraction: of the images of every class, held out for testing where there is but one split.
        classes: in the order of the labels' numbers; default: that of the source, by code point where it has none.
        statistics: mean and deviation, or the timm tag that stands for them; default: ImageNet's.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    source: Literal["folder", "csv", "npz", "hf"] | Annotated[str, Field(pattern="^timm:.")]
    path: str | None = None
    columns: Columns = Columns()
    splits: Parts = Parts()
    test_fraction: Fraction | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    statistics: Statistics | None = None

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if not self.source.startswith(TIMM) and not self.path:
            raise ValueError(f"a dataset from source {self.source} needs a path")
        if self.source.startswith(TIMM) and self.test_fraction:
            raise ValueError("test_fraction is for the sources " + ", ".join(SOURCES))
        return self


class _DatasetFile(Table):
    datasets: tuple[DatasetEntry, ...] = ()


def read_datasets(path: Path) -> dict[str, DatasetEntry]:
    """Return the entries of a file by their names.

    Raises:
        UsageError: names the file and the key that is wrong.
    """
    entries: dict[str, DatasetEntry] = {}
    for entry in checked(_DatasetFile, read_toml(path), path).datasets:
        if entry.name in entries:
            raise UsageError(f"{path}: datasets: {entry.name} has an entry above")
        folder = path.absolute().parent
        placed = entry.path and str(folder / Path(entry.path).expanduser())
        entries[entry.name] = entry.model_copy(update={"path": placed})
    if not entries:
        raise UsageError(f"{path} has no [[datasets]]; an entry is\n{FILE}")
    return entries


def load_own(entry: DatasetEntry, root: Path, download: bool) -> ImageDataset:
    """Return the dataset of an entry.

    Args:
        root: where a `timm:` source lies, if the entry has no path.

    Raises:
        UsageError: it is missing or damaged, or the entry does not fit it; names the dataset.
    """
    try:
        return _load(entry, root, download)
    except UsageError as error:
        raise UsageError(f"dataset {entry.name}: {error}") from error


def _load(entry: DatasetEntry, root: Path, download: bool) -> ImageDataset:
    if entry.source.startswith(TIMM):
        keys = {"input_key": entry.columns.image, "target_key": entry.columns.label}
        options = {key: column for key, column in keys.items() if column}
        data = load_timm(entry.source, Path(entry.path) if entry.path else root, download, options)
    else:
        place = Place(entry.name, Path(entry.path or ""), entry.columns, entry.splits, entry.test_fraction)
        data = SOURCES[entry.source](place, entry.classes)
    if entry.classes:
        data = in_order(data, entry.classes, "its entry")
    mean, std = entry.statistics.pair if entry.statistics else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    data = replace(data, name=entry.name, mean=mean, std=std)
    return replace(data, fingerprint=own_fingerprint(data))
