"""Open what users name, finished runs and teachers, as networks that see the same images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cakdbench.data.datasets import OnBadImage, check_dataset, load_dataset
from cakdbench.data.splits import ImageDataset, Split
from cakdbench.data.stream import EvalStream
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.plan import Settings
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import Recipe, default_recipe
from cakdbench.store import Store
from cakdbench.students.student import load_student
from cakdbench.utils.errors import UsageError

BATCH = 64


@dataclass(frozen=True)
class NamedNetwork:
    """A network in eval mode on the CPU, and what readers call it."""

    name: str
    model: StagedModel


@dataclass(frozen=True)
class Gallery:
    """Networks, and the test images that they look at.

    Attributes:
        recipe: how the images are cut and scaled: that of the first run, or else the dataset's default.
    """

    networks: tuple[NamedNetwork, ...]
    dataset: ImageDataset
    recipe: Recipe

    def images(self, count: int) -> Iterator[Tensor]:
        """Yield test images, evenly picked, in batches `(B, 3, S, S)` float32, normalised."""
        test = self.dataset.test
        picked = np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(int)
        split = Split(test.labels[picked], lambda i: test.image(int(picked[i])))
        for images, _, _ in EvalStream(split, self.dataset, self.recipe, batch_size=BATCH):
            yield images

    def pictures(self, images: Tensor) -> Tensor:
        """Return normalised images in their colours, `(B, 3, S, S)` from 0 to 1."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.dataset.mean, self.dataset.std))
        return (images * std + mean).clamp(0, 1)


def open_gallery(
    names: Sequence[str],
    store: Store,
    teacher_dir: Path,
    data_dir: Path | None,
    teacher_files: Sequence[Path] = (),
    on_bad_image: OnBadImage = "refuse",
) -> Gallery:
    """Return the networks that names stand for: keys or folders of finished runs, and teachers as MODEL@DATASET.

    Images that runs left out in training are left out.

    Raises:
        UsageError: a name stands for nothing, or the networks are of different datasets.
        CakdError: weights or data are missing.
    """
    students = {name: load_student(store.find(name), data_dir=data_dir) for name in names if not _is_teacher(name)}
    datasets = {name: student.record.identity.dataset.name for name, student in students.items()}
    datasets |= {name: name.partition("@")[2] for name in names if name not in students}
    for name in datasets.values():
        check_dataset(name)
    if len(set(datasets.values())) > 1:
        raise UsageError(f"networks of different datasets cannot see the same images: {_listed(datasets)}")
    skipped = any(student.record.identity.dataset.skipped for student in students.values())
    dataset = load_dataset(datasets[names[0]], data_dir, on_bad_image="skip" if skipped else on_bad_image)
    teachers = Teachers(store, teacher_dir, Settings(), list(teacher_files))
    recipe = next((student.recipe for student in students.values()), None)
    if recipe is None:
        model = teachers.entry(*names[0].split("@", 1)).zoo_model
        recipe = default_recipe(dataset.name, model_kind(model))
    networks = []
    for name in names:
        if name in students:
            student = students[name]
            _must_fit(name, student.model.image_size, recipe)
            networks.append(NamedNetwork(f"{student.record.label} ({student.model.name})", student.model))
        else:
            networks.append(NamedNetwork(name, teachers.load(name.split("@", 1)[0], dataset, recipe).model))
    return Gallery(tuple(networks), dataset, recipe)


def _is_teacher(name: str) -> bool:
    return "@" in name and not Path(name).exists()


def _listed(datasets: dict[str, str]) -> str:
    return ", ".join(f"{name} of {dataset}" for name, dataset in datasets.items())


def _must_fit(name: str, size: int, recipe: Recipe) -> None:
    if size != recipe.image_size:
        raise UsageError(
            f"{name} takes images of {size} px, the first run {recipe.image_size}: compare runs of one size"
        )
