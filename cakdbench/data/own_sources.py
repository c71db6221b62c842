"""What people keep images in: folders, a CSV of paths and labels, arrays."""

from __future__ import annotations

import csv
import os
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cakdbench.data.classes import class_order, held_out, numbered, some
from cakdbench.data.folders import ClassFolders
from cakdbench.data.splits import ImageDataset, from_arrays, from_files
from cakdbench.data.timm_datasets import TEST_NAMES, TRAIN_NAMES
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table

Classes = Sequence[str] | None
Row = tuple[str, str, str]
STATISTICS: Any = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
"""Until those of the entry come in their place."""


class Columns(Table):
    """The names of columns or arrays; None for the usual ones of a source."""

    image: str | None = None
    label: str | None = None
    split: str | None = None


class Parts(Table):
    """The names of the splits; None for the first of the usual ones that there is."""

    train: str | None = None
    test: str | None = None


class Half(Protocol):
    """A split as it is read."""

    @property
    def labels(self) -> list[str]:
        """Return the labels as text."""

    def take(self, positions: list[int]) -> Self:
        """Return the split of some of its samples."""


H = TypeVar("H", bound=Half)


@dataclass(frozen=True)
class Place:
    """Where a dataset lies, and what its parts are called; see `DatasetEntry`."""

    name: str
    path: Path
    columns: Columns = Columns()
    splits: Parts = Parts()
    test_fraction: float | None = None

    def halves(self, found: Collection[str], read: Callable[[str], H]) -> tuple[H, H]:
        """Read training and test split among those `found`, or take the test split out of the training images."""
        train = self._part(found, self.splits.train, TRAIN_NAMES)
        if self.test_fraction is None:
            test = self._part(found, self.splits.test, TEST_NAMES)
            self._tell_unused({*found} - {train, test})
            return read(train), read(test)
        self._tell_unused({*found} - {train})
        whole = read(train)
        first, second = held_out(whole.labels, self.test_fraction)
        return whole.take(first), whole.take(second)

    def _tell_unused(self, names: Collection[str]) -> None:
        if unused := sorted(name or "rows of no split" for name in names if name[:1] != "."):
            warnings.warn(f"{self.name}: not used of {self.path.name}: {some(unused)}", stacklevel=3)

    def _part(self, found: Collection[str], named: str | None, usual: Sequence[str]) -> str:
        part = named or next((name for name in usual if name in found), None)
        if part is None and self.test_fraction and len(found) == 1:
            return min(found)
        if part is None or part not in found:
            there = some(sorted(filter(None, found))) or "none"
            raise UsageError(
                f"{self.path.name} has no split {named or ' or '.join(usual)} (there: {there}); name them with "
                'splits = {train = "...", test = "..."}, or hold images out with test_fraction = 0.2'
            )
        return part


@dataclass(frozen=True)
class Files:
    """Image files below a folder with the names of their classes."""

    root: Path
    samples: list[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        return [label for _, label in self.samples]

    def take(self, positions: list[int]) -> Files:
        return Files(self.root, [self.samples[position] for position in positions])


def _from_files(place: Place, halves: tuple[Files, Files], classes: Classes) -> ImageDataset:
    names, *labels = numbered(halves[0].labels, halves[1].labels, classes)
    listed = (
        (half.root, [(path, label) for (path, _), label in zip(half.samples, numbers, strict=True)])
        for half, numbers in zip(halves, labels, strict=True)
    )
    return from_files(place.name, *listed, class_names=names, **STATISTICS)


def folder(place: Place, classes: Classes) -> ImageDataset:
    """Open a folder of splits, each with a folder of images per class, or, with a test fraction, one of classes."""
    try:
        found = {entry.name: Path(entry.path) for entry in os.scandir(place.path) if entry.is_dir()}
        if place.test_fraction and not found.keys() & {place.splits.train, *TRAIN_NAMES}:
            found = {"": place.path}
        halves = place.halves(found, lambda name: _class_folders(found[name]))
    except OSError as error:
        raise UsageError(f"{place.path} cannot be opened as a folder ({error.strerror or error})") from error
    names, others = (sorted(set(half.labels)) for half in halves)
    class_order(names, others, "the test split")
    return _from_files(place, halves, names)


def _class_folders(root: Path) -> Files:
    opened = ClassFolders(root)
    return Files(root, [(path, opened.classes[label]) for path, label in opened.samples])


def csv_file(place: Place, classes: Classes) -> ImageDataset:
    """Read a CSV with columns of paths, labels and, if need be, splits; or a folder with a CSV per split.

    Relative paths are taken from the folder of the CSV.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    if place.path.is_dir():
        files = {path.stem: path for path in sorted(place.path.glob("*.csv"))}
        halves = place.halves(
            files, lambda name: Files(place.path, [(path, label) for _, path, label in _rows(place, files[name])])
        )
    else:
        for split, path, label in _rows(place, place.path):
            parts.setdefault(split, []).append((path, label))
        halves = place.halves(parts, lambda name: Files(place.path.parent, parts[name]))
    root = Path(os.path.commonpath([os.path.dirname(path) for half in halves for path, _ in half.samples]))
    first, second = (Files(root, half.samples) for half in halves)
    return _from_files(place, (first, second), classes)


def _rows(place: Place, path: Path) -> list[Row]:
    """Return split (empty without a column of splits), path and label of each row.

    Raises:
        UsageError: there is none, one is incomplete, or an image has two labels.
    """
    rows, labels = list(_read_rows(place, path)), dict[str, str]()
    if not rows:
        raise UsageError(f"{path.name} has no rows below its header")
    for _, image, label in rows:
        if labels.setdefault(image, label) != label:
            raise UsageError(f"{path.name} says that {image} is {labels[image]} and {label}: leave one of the two out")
    if more := [image for (_, image, _), count in Counter(rows).items() if count > 1]:
        warnings.warn(f"{path.name} has {len(more)} images more than once, such as {more[0]}", stacklevel=2)
    return rows


def _read_rows(place: Place, path: Path) -> Iterator[Row]:
    image, label = place.columns.image or "path", place.columns.label or "label"
    split = place.columns.split or "split"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            wanted = [image, label, *([split] if place.columns.split else [])]
            must_have(path.name, "columns", wanted, rows.fieldnames or ())
            if twice := [name for name in wanted if (rows.fieldnames or ()).count(name) > 1]:
                raise UsageError(f"{path.name} has two columns {twice[0]}: rename one")
            for row in rows:
                if not (row[image] and row[label]):
                    raise UsageError(f"{path.name}, line {rows.line_num}: no {label if row[image] else image}")
                yield row.get(split) or "", os.path.normpath(path.parent / row[image]), row[label].strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a CSV in UTF-8 ({error})") from error


def must_have(where: str, what: str, wanted: Sequence[str], found: Collection[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(
            f"{where} has the {what} {', '.join(map(str, found)) or 'none'}, and not {' and '.join(missing)}: name its "
            'own with columns = {image = "...", label = "..."}'
        )


@dataclass(frozen=True)
class Arrays:
    """Images `(N, H, W)` or `(N, H, W, 3)` uint8, and labels `(N,)`."""

    images: np.ndarray
    classes: np.ndarray

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in self.classes.tolist()]

    def take(self, positions: list[int]) -> Arrays:
        return Arrays(self.images[positions], self.classes[positions])


def arrays(place: Place, classes: Classes) -> ImageDataset:
    """Read the arrays of an `.npz`, or the tensors of a `.pt` file: `train_images`, `train_labels`, `test_images`, ...

    Without splits in their names, `images` and `labels` are all there is. A folder has a file with those per split.
    """
    image, label = place.columns.image or "images", place.columns.label or "labels"
    if place.path.is_dir():
        files = {path.stem: path for path in sorted(place.path.iterdir()) if path.suffix in (".npz", ".pt")}
        halves = place.halves(files, lambda name: _pair(files[name].name, _tables(files[name]), image, label))
    else:
        held = _tables(place.path)
        must_have(place.path.name, "arrays", [name for name in (image,) if not _prefixes(held, name)], held)
        prefixes = {prefix.rstrip("_"): prefix for prefix in _prefixes(held, image)}
        halves = place.halves(
            prefixes, lambda name: _pair(place.path.name, held, prefixes[name] + image, prefixes[name] + label)
        )
    names, *labels = numbered(halves[0].labels, halves[1].labels, classes)
    pairs = [(half.images, np.array(numbers)) for half, numbers in zip(halves, labels, strict=True)]
    data = from_arrays(place.name, *pairs, class_names=names, **STATISTICS)
    known = {image.tobytes() for image in halves[0].images}
    if leaked := sum(image.tobytes() in known for image in halves[1].images):
        warnings.warn(f"{place.name}: {leaked} test images are training images too", stacklevel=2)
    return data


def _prefixes(held: Mapping[str, np.ndarray], name: str) -> list[str]:
    return [key.removesuffix(name) for key in held if key == name or key.endswith(f"_{name}")]


def _tables(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return dict(file)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensor.numpy() for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        RuntimeError,
        TypeError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} cannot be read as an .npz of arrays or a .pt of named tensors ({reason})") from error


def _pair(where: str, held: Mapping[str, np.ndarray], image: str, label: str) -> Arrays:
    must_have(where, "arrays", [image, label], held)
    images, labels = held[image], held[label]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise UsageError(
            f"{where}: {image} is {images.dtype} {images.shape}; "
            "give uint8 values of 0 to 255 as (N, H, W) or (N, H, W, 3)"
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuUS":
        raise UsageError(
            f"{where}: {label} is {labels.dtype} {labels.shape}; give {len(images)} whole numbers or names"
        )
    return Arrays(images, labels.astype(str) if labels.dtype.kind == "S" else labels)
