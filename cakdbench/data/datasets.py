"""The datasets by name, and the facts of each that need no files."""

import functools
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import FashionMNIST

from cakdbench.data import sources
from cakdbench.data.holdout import held_count, hold_out, is_holdout, whole_name
from cakdbench.data.own import DatasetEntry, load_own, read_datasets
from cakdbench.data.splits import Colour, ImageDataset, Split, from_arrays, from_files
from cakdbench.data.timm_datasets import load_timm
from cakdbench.data.unreadable import without_unreadable
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.places import cache_path

__all__ = [
    "DatasetFacts",
    "ImageDataset",
    "Split",
    "check_dataset",
    "dataset_facts",
    "dataset_names",
    "forget_datasets",
    "load_as_seen",
    "load_dataset",
    "register_datasets",
]


@dataclass(frozen=True)
class DatasetFacts:
    """The facts of a dataset that a plan needs.

    Attributes:
        mean: of pixel values in [0, 1], per RGB channel.
        n_train: number of images.
    """

    title: str
    num_classes: int
    mean: Colour
    std: Colour
    n_train: int
    n_test: int


OnBadImage = Literal["refuse", "skip"]
EMBEDDED = {"fashion_demo": (5_000, 2_000), "fashion_tiny": (500, 200)}
"""Images that come with cakdbench: how many training and test images of the one file a dataset has, its first ones."""
TIMM = "timm:"
GREY_MEAN, GREY_STD = (0.2860,) * 3, (0.3530,) * 3
FACTS = {
    "fashion_demo": DatasetFacts("Fashion-MNIST subset, embedded", 10, GREY_MEAN, GREY_STD, *EMBEDDED["fashion_demo"]),
    "fashion_tiny": DatasetFacts(
        "A tenth of fashion_demo, to see whether things work", 10, GREY_MEAN, GREY_STD, *EMBEDDED["fashion_tiny"]
    ),
    "fashion_mnist": DatasetFacts("Fashion-MNIST", 10, GREY_MEAN, GREY_STD, 60_000, 10_000),
    "cifar10": DatasetFacts("CIFAR-10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 50_000, 10_000),
    "cifar100": DatasetFacts("CIFAR-100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 50_000, 10_000),
    "imagenet1k": DatasetFacts("ImageNet-1k", 1000, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 1_281_167, 50_000),
}


_own: dict[str, DatasetEntry] = {}


def register_datasets(path: Path | str) -> None:
    """Make the datasets that a file describes known by their names, in this process.

    Raises:
        UsageError: the file is wrong, or names a dataset as one that comes with cakdbench.
    """
    entries = read_datasets(Path(path))
    if taken := sorted(entries.keys() & FACTS.keys()):
        raise UsageError(f"{path}: datasets: {taken[0]} comes with cakdbench; give your dataset another name")
    forget_datasets()
    _own.update(entries)


def dataset_names() -> list[str]:
    """Return the named datasets; besides them, `timm:NAME` is anything `timm.data.create_dataset` opens."""
    return [*FACTS, *_own]


def check_dataset(name: str) -> None:
    """Raise UsageError, with the nearest names, for an unknown dataset; timm's own are known once opened."""
    name = whole_name(name)
    if not name.startswith(TIMM) and name not in dataset_names():
        ways = "images of your own: timm:folder/NAME is the folder NAME in --data-dir, --datasets FILE all others"
        raise UsageError(f"{unknown('dataset', name, dataset_names())}; {ways}")
    place = name.removeprefix(TIMM).removeprefix("folder/")
    if name.startswith(TIMM) and (Path(place).is_absolute() or place[:1] in ("/", "~") or ".." in Path(place).parts):
        raise UsageError(
            f"{name}: the name of a dataset stands in keys and results, so it has no place on this machine in it: "
            f"give {TIMM}folder/{Path(place).name} and its folder with --data-dir"
        )


def data_root(data_dir: Path | str | None = None) -> Path:
    """Return the folder of the datasets: the argument, else CAKDBENCH_DATA, else the user's cache."""
    root = data_dir or os.environ.get("CAKDBENCH_DATA") or cache_path("data")
    return Path(root).expanduser().absolute()


def dataset_facts(name: str, data_dir: Path | str | None = None, download: bool = False) -> DatasetFacts:
    """Return the facts of a named dataset, without touching a file; others have to be opened for them.

    Raises:
        UsageError: the name is unknown, or the dataset cannot be opened.
    """
    check_dataset(name)
    if is_holdout(name):
        facts = dataset_facts(whole_name(name), data_dir, download)
        held = held_count(facts.n_train, facts.n_test)
        return replace(facts, title=f"{facts.title}, held out", n_train=facts.n_train - held, n_test=held)
    if name not in FACTS:
        data = load_dataset(name, data_dir, download)
        sizes = len(data.train), len(data.test)
        return DatasetFacts(name.removeprefix(TIMM), data.num_classes, data.mean, data.std, *sizes)
    return FACTS[name]


def load_dataset(
    name: str, data_dir: Path | str | None = None, download: bool = True, on_bad_image: OnBadImage = "refuse"
) -> ImageDataset:
    """Return a dataset by name; the same object when asked again, until `forget_datasets`.

    Args:
        data_dir: see `data_root`.
        download: let torchvision fetch what is missing.
        on_bad_image: "refuse" an image that cannot be read when it is needed, or decode all now and "skip" those.

    Raises:
        UsageError: the name is unknown, or the data is missing or damaged; says which files belong where.
    """
    check_dataset(name)
    root = Path() if whole_name(name) in EMBEDDED else data_root(data_dir)
    place = _place(name, root, on_bad_image)
    if not place:
        place.append(_open(name, root, download, on_bad_image))
    return place[0]


def _open(name: str, root: Path, download: bool, on_bad_image: OnBadImage) -> ImageDataset:
    if is_holdout(name):
        return hold_out(load_dataset(whole_name(name), root, download, on_bad_image))
    if on_bad_image == "skip":
        return without_unreadable(load_dataset(name, root, download))
    return _load(name, root, download)


def load_as_seen(name: str, skipped: int | None, data_dir: Path | str | None = None, **more: Any) -> ImageDataset:
    """Return a dataset as a run saw it: without the images that cannot be read, if any were `skipped` then."""
    return load_dataset(name, data_dir, on_bad_image="skip" if skipped else "refuse", **more)


def forget_datasets() -> None:
    """Read the datasets anew from now on: files may have changed since a notebook began."""
    _place.cache_clear()


@functools.lru_cache(maxsize=4)
def _place(name: str, root: Path, on_bad_image: OnBadImage) -> list[ImageDataset]:
    """Return where a dataset is kept once it has been opened, whether it was downloaded for that or not."""
    return []


def _load(name: str, root: Path, download: bool) -> ImageDataset:
    if name in _own:
        return load_own(_own[name], root, download)
    if name.startswith(TIMM):
        return load_timm(name, root, download)
    facts = FACTS[name]
    if name == "imagenet1k":
        halves = sources.imagenet1k(root)
        files = ((Path(half.root), half.samples) for half in halves)
        data = from_files(name, *files, class_names=halves[0].classes, mean=facts.mean, std=facts.std)
    else:
        arrays, class_names = _arrays(name, root, download)
        data = from_arrays(name, *arrays, class_names=class_names, mean=facts.mean, std=facts.std)
    if (len(data.train), len(data.test)) != (facts.n_train, facts.n_test):
        warnings.warn(
            f"{name} in {root} has {len(data.train)} training and {len(data.test)} test images, the original "
            f"{facts.n_train} and {facts.n_test}: results will not be comparable",
            stacklevel=3,
        )
    return data


def _arrays(name: str, root: Path, download: bool) -> tuple[tuple[sources.Arrays, sources.Arrays], list[str]]:
    if name in EMBEDDED:
        return sources.fashion_demo(*EMBEDDED[name]), FashionMNIST.classes
    if name == "fashion_mnist":
        return sources.fashion_mnist(root, download), FashionMNIST.classes
    return sources.cifar(name, root, download)
