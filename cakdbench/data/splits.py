"""A dataset in memory: decoded or decodable images, labels, and a fingerprint of both."""

import filecmp
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from cakdbench.data.images import FileImages
from cakdbench.utils.errors import UsageError

T = TypeVar("T")
Colour = tuple[float, float, float]
Samples = Sequence[tuple[str, int]]
HASHED = 512
"""So many files of a split have their contents in the fingerprint, and all of a smaller one."""


@dataclass(frozen=True, eq=False)
class Split:
    """Half of a dataset.

    Attributes:
        labels: `(N,)` int64 class indices.
        image: gives the i-th image as RGB; a pure function that can be pickled (workers call it).
    """

    labels: np.ndarray
    image: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A classification dataset.

    Attributes:
        mean: per RGB channel, of pixel values in [0, 1].
        std: likewise.
        fingerprint: sha256 of all that can change a result, and not of where the files are.
        skipped: number of images left out because they cannot be read; None if none was.
        whole: the dataset whose training images were divided, where the test set is held out of those.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    mean: Colour
    std: Colour
    train: Split
    test: Split
    fingerprint: str
    skipped: int | None = None
    whole: "ImageDataset | None" = None


class ArrayImages:
    """Images held in memory as uint8, `(N, H, W)` grey or `(N, H, W, 3)` RGB."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index]).convert("RGB")


def from_arrays(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    class_names: Sequence[str],
    mean: Colour,
    std: Colour,
) -> ImageDataset:
    """Return a dataset held in memory; the fingerprint covers every pixel and label.

    Args:
        train: images `(N, H, W)` or `(N, H, W, 3)` uint8, and labels `(N,)`.
        test: likewise.
    """
    halves = [(np.ascontiguousarray(images), np.asarray(labels, np.int64)) for images, labels in (train, test)]
    content = (part for images, labels in halves for part in (str(images.shape), images, labels))
    first, second = (Split(labels, ArrayImages(images)) for images, labels in halves)
    return assemble(name, (first, second), content, class_names, mean, std)


def from_files(
    name: str,
    train: tuple[Path, Samples],
    test: tuple[Path, Samples],
    *,
    class_names: Sequence[str],
    mean: Colour,
    std: Colour,
) -> ImageDataset:
    """Return a dataset of image files.

    The fingerprint covers their names below the folder, labels and sizes, and the contents of a seeded sample: of a
    large dataset, only `content_hash` sees every file that was replaced by one of the same size.

    Args:
        train: the split's folder, and its files with their labels.
        test: likewise.

    Raises:
        UsageError: a file cannot be read.
    """
    sizes = [[of_file(path, _size) for path, _ in samples] for _, samples in (train, test)]
    content = (line for half, of_half in zip((train, test), sizes, strict=True) for line in _lines(*half, of_half))
    data = assemble(name, (_file_split(train[1]), _file_split(test[1])), content, class_names, mean, std)
    if leaked := _in_both(train, test, sizes):
        warnings.warn(f"{name}: {len(leaked)} test images are training images too, such as {leaked[0]}", stacklevel=2)
    return data


def _lines(folder: Path, samples: Samples, sizes: Sequence[int]) -> Iterator[str]:
    """Yield the text that stands for each sample, behind one that says how many there are."""
    yield f".\0{len(samples)}\n"
    hashed = set(hashed_positions(len(samples)))
    for number, ((path, label), size) in enumerate(zip(samples, sizes, strict=True)):
        digest = of_file(path, file_hash).hex() if number in hashed else ""
        yield f"{_below(folder, path)}\0{label}\0{size}\0{digest}\n"


def of_file(path: str, read: Callable[[str], T]) -> T:
    """Return what `read` makes of a file; raises UsageError where it cannot be read."""
    try:
        return read(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); restore or remove it") from error
    except ValueError as error:
        raise UsageError(f"{path!a} has a name that no file can have in UTF-8: rename or remove it") from error


def _size(path: str) -> int:
    path.encode()  # not every name on disk is text
    return os.stat(path).st_size


def hashed_positions(count: int) -> list[int]:
    """Return which of a split's images have their contents in the fingerprint: a seeded sample."""
    return np.random.RandomState(0).permutation(count)[:HASHED].tolist()


def _below(folder: Path, path: str) -> str:
    return Path(path).relative_to(folder).as_posix()


def _in_both(train: tuple[Path, Samples], test: tuple[Path, Samples], sizes: Sequence[Sequence[int]]) -> list[str]:
    """Return the test images, by their names, that are training images.

    Those are all of the same path, or of the same name and content, and of a sample all of equal content.
    """
    first, second = ([path for path, _ in samples] for _, samples in (train, test))
    known = {*first, *_copies(first, second, *sizes)}
    names = {path: _below(test[0], path) for path in second}
    return [name for path, name in names.items() if path in known or _is_twin(train[0] / name, Path(path))]


def _is_twin(first: Path, second: Path) -> bool:
    return first != second and first.is_file() and filecmp.cmp(first, second, shallow=False)


def _copies(
    train: Sequence[str], test: Sequence[str], train_sizes: Sequence[int], test_sizes: Sequence[int]
) -> set[str]:
    """Return those among a sample of test images that have the content of a training image; not all of a large one."""
    sampled = hashed_positions(len(test))
    sizes = {test_sizes[position] for position in sampled}
    alike = [path for path, size in zip(train, train_sizes, strict=True) if size in sizes]
    known = {file_hash(alike[position]) for position in hashed_positions(len(alike))}
    return {test[position] for position in sampled if file_hash(test[position]) in known}


def file_hash(path: str) -> bytes:
    """Return the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def content_hash(data: ImageDataset) -> str:
    """Return a sha256 of the fingerprint and of the content of every file: what the fingerprint only samples."""
    digest = hashlib.sha256(data.fingerprint.encode())
    for split in (data.train, data.test):
        if isinstance(split.image, FileImages):
            for path in split.image.paths:
                digest.update(file_hash(path))
    return digest.hexdigest()


def _file_split(samples: Samples) -> Split:
    return Split(np.array([label for _, label in samples], np.int64), FileImages([path for path, _ in samples]))


def assemble(
    name: str,
    splits: tuple[Split, Split],
    content: Iterable[str | np.ndarray],
    class_names: Sequence[str],
    mean: Colour,
    std: Colour,
) -> ImageDataset:
    """Return a dataset of a training and a test split; its fingerprint covers `content` and the normalisation."""
    digest = hashlib.sha256(repr((len(class_names), tuple(mean), tuple(std))).encode())
    for part in content:
        digest.update(part.encode() if isinstance(part, str) else part.data)
    names = tuple(class_names)
    train, test = splits
    return ImageDataset(name, len(names), names, mean, std, train, test, digest.hexdigest())
