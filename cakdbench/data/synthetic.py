"""Images of noise in the form of a named dataset, for measurements of speed where the dataset is not at hand."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cakdbench.data.datasets import DatasetFacts
from cakdbench.data.images import dataset_image
from cakdbench.data.splits import ArrayImages, ImageDataset, Split
from cakdbench.utils.rng import derive

POOL = 64
"""Different images; the dataset repeats them."""
PIXELS = {"imagenet1k": (375, 500), "fashion_mnist": (28, 28), "fashion_demo": (28, 28)}
"""Height and width; 32 x 32 of those that are not named, as of CIFAR. ImageNet's images are files of about 110 KB."""
SMALL = 64
"""Images with more pixels a side are JPEG files, decoded at every use as those of a folder are."""


class EncodedImages:
    """Image files held in memory, decoded at every use."""

    def __init__(self, files: Sequence[bytes]):
        self.files = files

    def __call__(self, index: int) -> Image.Image:
        return dataset_image(io.BytesIO(self.files[index % len(self.files)]), "synthetic image")


class RepeatedImages(ArrayImages):
    """Images held in memory, over and over."""

    def __call__(self, index: int) -> Image.Image:
        return super().__call__(index % len(self.array))


def synthetic_dataset(name: str, facts: DatasetFacts) -> ImageDataset:
    """Return as many images, of as many classes and pixels, and decoded in the same way, as the named dataset has."""
    generator = np.random.RandomState(derive("synthetic", name) % 2**32)
    height, width = PIXELS.get(name, (32, 32))
    noise = [_image(generator, height, width) for _ in range(POOL)]
    images = EncodedImages(list(map(_jpeg, noise))) if height > SMALL else RepeatedImages(np.stack(noise))
    train, test = (Split(np.arange(size) % facts.num_classes, images) for size in (facts.n_train, facts.n_test))
    names = tuple(map(str, range(facts.num_classes)))
    return ImageDataset(name, facts.num_classes, names, facts.mean, facts.std, train, test, "synthetic")


def _image(generator: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Return `(H, W, 3)` uint8: coarse colours, and grain that makes a JPEG as long as a photograph's."""
    coarse = generator.randint(0, 256, (height // 25 + 1, width // 25 + 1, 3), np.uint8)
    colours = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = generator.normal(0, 12, (height, width, 1))
    return np.clip(colours + grain, 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()
