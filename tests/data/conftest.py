import pytest

from cakdbench.data.splits import ImageDataset, from_arrays
from cakdbench.recipes import Recipe, load_recipe
from tests.data.data_lab import random_arrays

DEMO = load_recipe("demo")


@pytest.fixture(scope="session")
def noise() -> ImageDataset:
    """50 training and 30 test images of 4 classes, 12 x 12."""
    names = ("a", "b", "c", "d")
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.25)}
    return from_arrays("noise", random_arrays(50), random_arrays(30, seed=1), class_names=names, **statistics)


@pytest.fixture
def recipe():
    """Makes a recipe for `noise`: 24 images per step in local batches of 6, all augmentation on."""

    def make(**changes) -> Recipe:
        values = {
            "image_size": 16,
            "global_batch": 24,
            "local_batch": 6,
            "augment.crop": "rrc",
            "augment.pad": 0,
            "augment.interpolation": "random",
            "augment.color_jitter": 0.4,
            "augment.auto_augment": "rand-m9-mstd0.5-inc1",
            "augment.reprob": 0.5,
            "augment.mixup": 0.8,
            "augment.cutmix": 1.0,
        }
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        return DEMO.override(values | changes)

    return make
