"""Hugging Face datasets on disk."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cakdbench.data.classes import numbered
from cakdbench.data.images import dataset_image
from cakdbench.data.own_sources import STATISTICS, Classes, Place, must_have
from cakdbench.data.splits import HASHED, ImageDataset, Split, assemble, hashed_positions, of_file
from cakdbench.utils.errors import UsageError


@dataclass(frozen=True)
class Rows:
    """A split of a Hugging Face dataset, whose images are kept as they are encoded."""

    data: Any
    image: str
    label: str
    sizes: np.ndarray

    @property
    def labels(self) -> list[str]:
        names, labels = getattr(self.data.features[self.label], "names", None), list(self.data[self.label])
        if any(label is None or (names and label < 0) for label in labels):
            raise UsageError(f"there are images without a label in column {self.label}")
        if any(isinstance(label, list | dict) for label in labels):
            raise UsageError(f"column {self.label} has several labels per image: give one of single labels")
        return [names[label] if names else str(label) for label in labels]

    def take(self, positions: list[int]) -> Rows:
        return Rows(self.data.select(positions), self.image, self.label, self.sizes[positions])


class EncodedImages:
    """Images of a Hugging Face dataset, decoded at every use."""

    def __init__(self, rows: Rows, name: str):
        self.data, self.column, self.name = rows.data.select_columns([rows.image]), rows.image, name
        self.sizes = rows.sizes

    def file(self, index: int) -> bytes:
        """Return an image as it is encoded; of none, no bytes."""
        cell = self.data[index][self.column] or {}
        if cell.get("bytes") is None and cell.get("path"):
            return of_file(cell["path"], lambda path: Path(path).read_bytes())
        return cell.get("bytes") or b""

    def __call__(self, index: int) -> Image.Image:
        return dataset_image(io.BytesIO(self.file(index)), f"image {index} of {self.name}")


def saved_on_disk(place: Place, classes: Classes) -> ImageDataset:
    """Open what `save_to_disk` of the package datasets wrote: a dataset with splits, or one without."""
    try:
        import datasets
    except ImportError:
        raise UsageError("a Hugging Face dataset needs the package datasets: pip install 'cakdbench[hf]'") from None
    try:
        opened: Any = datasets.load_from_disk(str(place.path))
    except Exception as error:  # whatever it makes of damaged files
        raise UsageError(f"{place.path} is nothing that save_to_disk of datasets wrote ({error})") from error
    parts = opened if isinstance(opened, dict) else {"": opened}
    halves = place.halves(parts, lambda name: _encoded(place, parts[name], datasets.Image))
    own = getattr(halves[0].data.features[halves[0].label], "names", None)
    names, *labels = numbered(halves[0].labels, halves[1].labels, own or classes)
    images = [
        EncodedImages(half, f"{place.name}, {part}") for half, part in zip(halves, ("training", "test"), strict=True)
    ]
    first, second = (Split(np.array(numbers, np.int64), image) for numbers, image in zip(labels, images, strict=True))
    content = itertools.chain(_content(first.labels, images[0]), _content(second.labels, images[1]))
    return assemble(place.name, (first, second), content, names, **STATISTICS)


def _encoded(place: Place, data: Any, image_feature: Any) -> Rows:
    """Return a split with its images as bytes."""
    images = [name for name, feature in data.features.items() if isinstance(feature, image_feature)]
    image = place.columns.image or (images[0] if len(images) == 1 else "image")
    label = place.columns.label or "label"
    must_have(place.path.name, "columns", [image, label], list(data.features))
    if image not in images:
        raise UsageError(
            f"{place.path.name}: column {image} is of no images ({data.features[image]}): cast it to Image()"
        )
    encoded = data.cast_column(image, image_feature(decode=False))
    return Rows(encoded, image, label, _sizes(encoded.data.column(image)))


def _sizes(column: Any) -> np.ndarray:
    """Return the bytes of each encoded image, without reading any; 0 for those in files of their own."""
    from pyarrow import compute

    return compute.binary_length(compute.struct_field(column, "bytes")).fill_null(0).to_numpy()


def _content(labels: np.ndarray, images: EncodedImages) -> Iterator[str | np.ndarray]:
    """Yield all labels, the hashes of a seeded sample of the images, and, if those are not all, all sizes."""
    yield labels
    if len(labels) > HASHED:
        yield images.sizes.astype(np.int64)
    yield from (hashlib.sha256(images.file(index)).hexdigest() for index in hashed_positions(len(labels)))
