"""Reading the named datasets from disk, downloading them where torchvision can."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from cakdbench.data.folders import ClassFolders
from cakdbench.data.idx import read_split
from cakdbench.utils.errors import UsageError

T = TypeVar("T")
Arrays = tuple[np.ndarray, np.ndarray]
ELSEWHERE = "or name the folder that has it with --data-dir or CAKDBENCH_DATA"
CIFAR = {"cifar10": (CIFAR10, "data_batch_1 ... data_batch_5"), "cifar100": (CIFAR100, "train")}
EMBEDDED = Path(__file__).with_name("fashion_demo.npz")


def fetch(open_dataset: Callable[[bool], T], root: Path, download: bool) -> T:
    """Open what is there; failing that, let one process at a time download it.

    Args:
        open_dataset: opens the dataset; its argument allows it to download.
    """
    try:
        return open_dataset(False)
    except (RuntimeError, OSError, ValueError, AssertionError):
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):
        return open_dataset(True)


def fashion_demo(n_train: int, n_test: int) -> tuple[Arrays, Arrays]:
    """Return the first images of the embedded subset; see scripts/make_fashion_demo.py."""
    sizes = {"train": n_train, "test": n_test}
    with np.load(EMBEDDED) as file:
        train, test = ((file[f"{split}_images"][:n], file[f"{split}_labels"][:n]) for split, n in sizes.items())
    return train, test


def fashion_mnist(root: Path, download: bool) -> tuple[Arrays, Arrays]:
    """Read the four idx files in `FashionMNIST/raw` (torchvision's layout) or `fashion-mnist` (Debian's)."""

    def open_dataset(may_download: bool) -> tuple[Arrays, Arrays]:
        if may_download:
            FashionMNIST(str(root), download=True)
        plain = root / "fashion-mnist"
        folder = plain if plain.is_dir() else root / "FashionMNIST" / "raw"
        return read_split(folder, "train"), read_split(folder, "test")

    try:
        return fetch(open_dataset, root, download)
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"fashion_mnist is not in {root} ({error}). Put train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (as they are or with "
            f".gz) into {root / 'FashionMNIST' / 'raw'} or {root / 'fashion-mnist'}, {ELSEWHERE}"
        ) from error


def cifar(name: str, root: Path, download: bool) -> tuple[tuple[Arrays, Arrays], list[str]]:
    """Read CIFAR-10 or CIFAR-100 in torchvision's layout, and the names of the classes."""
    kind, train_files = CIFAR[name]
    folder = root / kind.base_folder

    def open_dataset(may_download: bool) -> tuple[tuple[Arrays, Arrays], list[str]]:
        halves = [kind(str(root), train=train, download=may_download) for train in (True, False)]
        train, test = ((half.data, np.array(half.targets)) for half in halves)
        return (train, test), halves[0].classes

    try:
        return fetch(open_dataset, root, download)
    except (RuntimeError, OSError) as error:
        state = "damaged or incomplete (checksums differ)" if folder.is_dir() else "missing"
        files = f"{train_files}, {kind.test_list[0][0]} and {kind.meta['filename']}"
        raise UsageError(
            f"{name} is {state} in {folder} ({error}). Unpack {kind.filename} ({kind.url}) in {root}, so "
            f"that {folder} holds {files}, {ELSEWHERE}"
        ) from error


def imagenet1k(root: Path) -> tuple[ClassFolders, ClassFolders]:
    """Open ImageNet-1k as one folder of images per class.

    Raises:
        UsageError: it is missing, or has not exactly 1000 classes. A subset is refused because its labels
            would not be those of models trained on ImageNet-1k, nor its results comparable.
    """
    folder = root / "imagenet1k"
    try:
        halves = ClassFolders(folder / "train"), ClassFolders(folder / "val")
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"imagenet1k is not in {folder} ({error}). Put the training images into {folder}/train/<wnid>/ "
            f"and the 50,000 validation images into {folder}/val/<wnid>/, for instance "
            f"val/n01440764/ILSVRC2012_val_00000293.JPEG, {ELSEWHERE}"
        ) from error
    classes = {half.root: len(half.classes) for half in halves}
    if set(classes.values()) != {1000} or halves[0].classes != halves[1].classes:
        raise UsageError(
            f"imagenet1k needs the same 1000 class folders in train and val, found {classes}. A subset of "
            "ImageNet is a dataset of its own: name it timm:folder/imagenet1k"
        )
    return halves
