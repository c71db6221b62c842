"""A dataset in memory: decoded or decodable images, labels, and a fingerprint of both."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cakdbench.utils.errors import CakdError

Colour = tuple[float, float, float]


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
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    mean: Colour
    std: Colour
    train: Split
    test: Split
    fingerprint: str


class ArrayImages:
    """Images held in memory as uint8, `(N, H, W)` grey or `(N, H, W, 3)` RGB."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index]).convert("RGB")


class FileImages:
    """Images decoded from their files at every use."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __call__(self, index: int) -> Image.Image:
        try:
            with Image.open(self.paths[index]) as image:
                return image.convert("RGB")
        except OSError as error:
            reason = f"{self.paths[index]} cannot be decoded ({error}); replace it by an intact copy"
            raise CakdError(reason) from error


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
    train: tuple[Path, Sequence[tuple[str, int]]],
    test: tuple[Path, Sequence[tuple[str, int]]],
    *,
    class_names: Sequence[str],
    mean: Colour,
    std: Colour,
) -> ImageDataset:
    """Return a dataset of image files; the fingerprint covers their names below the folder, and the labels.

    Args:
        train: the split's folder, and its files with their labels.
        test: likewise.
    """
    content = (line for folder, samples in (train, test) for line in _lines(folder, samples))
    return assemble(name, (_file_split(train[1]), _file_split(test[1])), content, class_names, mean, std)


def _lines(folder: Path, samples: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Yield the text that stands for each sample, behind one that says how many there are."""
    yield f".\0{len(samples)}\n"
    for path, label in samples:
        yield f"{Path(path).relative_to(folder).as_posix()}\0{label}\n"


def _file_split(samples: Sequence[tuple[str, int]]) -> Split:
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
