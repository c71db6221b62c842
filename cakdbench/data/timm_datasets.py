"""Datasets that `timm.data.create_dataset` opens, as `timm:NAME`."""

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data import IMAGENET_DEFAULT_STD as STD
from timm.data import ImageDataset as TimmDataset
from timm.data import create_dataset

from cakdbench.data.folders import ClassFolders
from cakdbench.data.images import dataset_image
from cakdbench.data.sources import ELSEWHERE, fetch
from cakdbench.data.splits import ImageDataset, Split, assemble, from_arrays, from_files
from cakdbench.utils.errors import UsageError

STREAMED = ("hfids", "tfds", "wds")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("validation", "val", "valid", "eval", "evaluation", "test")
IMAGE_FOLDERS = ("torch/folder", "torch/image_folder")
PROBES = 256


def load_timm(name: str, root: Path, download: bool, options: Mapping[str, str] = {}) -> ImageDataset:
    """Return the dataset `timm:NAME`, normalised with ImageNet's statistics.

    `timm:torch/NAME` and `timm:hfds/OWNER/NAME` have `root` as their root or cache. Any other name,
    `timm:folder/NAME` or `timm:NAME`, is the folder `root/NAME` with `train` and `val` (or `test`) inside.

    Args:
        options: for `timm.data.create_dataset`, as in `{"input_key": "img"}`.

    Raises:
        UsageError: timm cannot open it, or it lacks random access, a split, or labels.
    """
    spec = name.removeprefix("timm:")
    kind = spec.partition("/")[0].lower()
    if kind in STREAMED:
        raise UsageError(f"{name} is a stream; training needs random access (torch/, hfds/ or folder/)")
    named = kind in ("torch", "hfds") and spec.lower() not in IMAGE_FOLDERS
    open_half = functools.partial(_open_split, options) if named else _open_folder
    try:
        train, test = (open_half(spec, root, names, download) for names in (TRAIN_NAMES, TEST_NAMES))
    except (RuntimeError, OSError, ValueError, AssertionError, ImportError) as error:
        raise UsageError(f"timm cannot open {name} below {root} ({error}): put it there, {ELSEWHERE}") from error
    return _convert(name, train, test)


def _open_split(options: Mapping[str, str], spec: str, root: Path, names: Sequence[str], download: bool) -> Any:
    """Open the first of the named splits that the dataset has."""
    for split in names:
        open_dataset = functools.partial(_create, spec, root, split, options)
        try:
            return fetch(open_dataset, root, download)
        except ValueError as error:
            reason = error
    raise reason


def _create(spec: str, root: Path, split: str, options: Mapping[str, str], may_download: bool) -> Any:
    open_dataset: Any = create_dataset  # its further options are not typed
    data = open_dataset(spec, str(root), split, download=may_download, **options)
    if hasattr(data, "loader"):
        data.loader = dataset_image
    return data


def _open_folder(spec: str, root: Path, names: Sequence[str], download: bool) -> Any:
    """Open the first of the named subfolders.

    Here, because timm takes the parent if there is none, names classes by the innermost folder, and sorts naturally.
    """
    folder = root / spec.removeprefix("folder/")
    folders = [folder / name for name in names if (folder / name).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{folder} needs a folder {' or '.join(names)}, one folder per class in it")
    if len(folders) > 1:
        others = ", ".join(other.name for other in folders[1:])
        warnings.warn(f"{folder} has {folders[0].name} and {others}: {folders[0].name} is taken", stacklevel=2)
    return ClassFolders(folders[0])


def _convert(name: str, train: Any, test: Any) -> ImageDataset:
    halves, labels = (train, test), (_labels(train), _labels(test))
    classes = [_class_names(half) for half in halves]
    if classes[0] != classes[1]:
        one_sided = ", ".join(sorted(set(classes[0]) ^ set(classes[1]))[:5]) or "by their order"
        raise UsageError(f"{name} has different classes in training and test ({one_sided}); give both the same folders")
    if min(half.min() for half in labels) < 0:
        raise UsageError(f"{name} has images without a label")
    count = 1 + max(half.max() for half in labels)
    class_names = classes[0] or tuple(map(str, range(count)))
    if all(hasattr(half, "data") for half in halves):
        arrays = [(np.asarray(half.data), half_labels) for half, half_labels in zip(halves, labels, strict=True)]
        return from_arrays(name, *arrays, class_names=class_names, mean=MEAN, std=STD)
    files = [listed for half in halves if (listed := _files(half))]
    if len(files) == 2:
        return from_files(name, *files, class_names=class_names, mean=MEAN, std=STD)
    first, second = (SampleImages(half, f"{name}, {part}") for half, part in ((train, "training"), (test, "test")))
    splits = Split(labels[0], first), Split(labels[1], second)
    return assemble(name, splits, _probes(splits), class_names, MEAN, STD)


def _labels(data: Any) -> np.ndarray:
    """Return `(N,)` int64 labels, without decoding images where the dataset allows it."""
    targets: Any = getattr(data, "targets", None)
    if np.ndim(targets) == 1:
        labels = targets
    elif files := _files(data):
        labels = [label for _, label in files[1]]
    elif hasattr(getattr(data, "reader", None), "iter_targets"):
        labels = list(data.reader.iter_targets())
    else:
        labels = [data[index][1] for index in range(len(data))]
    return np.asarray(labels).astype(np.int64)


def _class_names(data: Any) -> tuple[str, ...]:
    """Return names in the order of the labels; empty if the dataset does not tell."""
    if hasattr(data, "classes"):
        return tuple(map(str, data.classes))
    index = getattr(getattr(data, "reader", None), "class_to_idx", None) or {}
    return tuple(sorted(index, key=lambda name: index[name]))


def _files(data: Any) -> tuple[Path, list[tuple[str, int]]] | None:
    """Return the folder and its files with their labels, if the dataset is of that sort."""
    holder = getattr(data, "reader", data)
    return (Path(holder.root), holder.samples) if hasattr(holder, "samples") else None


class SampleImages:
    """Images of a timm or torchvision dataset, decoded at every use."""

    def __init__(self, data: Any, name: str):
        self.data, self.name = data, name

    def __call__(self, index: int) -> Image.Image:
        if isinstance(self.data, TimmDataset):  # whose __getitem__ replaces an unreadable image by the next
            return dataset_image(self.data.reader[index][0], f"image {index} of {self.name}")
        return self.data[index][0].convert("RGB")


def _probes(splits: Sequence[Split]) -> Iterator[str | np.ndarray]:
    """Yield all labels and some images, because decoding all would take hours for a large dataset."""
    for split in splits:
        yield split.labels
        for index in np.unique(np.linspace(0, len(split) - 1, PROBES).astype(int)):
            try:
                yield np.asarray(split.image(index))
            except UsageError as error:  # for whoever needs the image
                yield str(error)
