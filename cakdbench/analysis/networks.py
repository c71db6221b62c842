"""Open what users name, finished runs and teachers, as networks that see the same images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cakdbench.analysis.methods import open_method
from cakdbench.data.datasets import OnBadImage, check_dataset, load_dataset
from cakdbench.data.splits import ImageDataset, Split
from cakdbench.data.stream import EvalStream
from cakdbench.engine.run_names import listed, names_of
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.pairs import NAMED_RUN, RUN
from cakdbench.grid.plan import Settings
from cakdbench.method import Method
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_kind
from cakdbench.recipes import Recipe, default_recipe
from cakdbench.store import RunFolder, Store
from cakdbench.students.student import Student, load_student
from cakdbench.utils.errors import UsageError

BATCH = 64


@dataclass(frozen=True)
class NamedNetwork:
    """A network in eval mode on the CPU, and what readers call it.

    Attributes:
        run, student: of a finished run; None of a teacher.
    """

    name: str
    model: StagedModel
    run: RunFolder | None = None
    student: Student | None = None


@dataclass(frozen=True)
class Gallery:
    """Networks, and the test images that they look at.

    Attributes:
        recipe: how the images are cut and scaled: that of the first run, or else the dataset's default.
    """

    networks: tuple[NamedNetwork, ...]
    dataset: ImageDataset
    recipe: Recipe
    teachers: Teachers

    def method(self, network: NamedNetwork) -> Method:
        """Return the method of a finished run with the modules that it kept, in eval mode.

        Raises:
            UsageError: it is a teacher, its modules were not kept, or its own teacher is another one today.
            CakdError: weights are missing or damaged.
        """
        if network.run is None or network.student is None:
            raise UsageError(f"{network.name} is a teacher: name a run that was made with --keep modules")
        return open_method(network.run, network.student, self.dataset, self.teachers)

    def counted(self, count: int) -> str:
        """Return how many images `images` yields, and of what."""
        return f"{min(count, len(self.dataset.test))} test images of {self.dataset.name}"

    def images(self, count: int) -> Iterator[Tensor]:
        """Yield test images, evenly picked, in batches `(B, 3, S, S)` float32, normalised."""
        test = self.dataset.test
        picked = np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(int)
        split = Split(test.labels[picked], lambda i: test.image(int(picked[i])))
        for images, _, _ in EvalStream(split, self.dataset, self.recipe, batch_size=BATCH):
            yield images

    def seen(self, count: int) -> Tensor:
        """Return what `images` yields as one batch."""
        return torch.cat([*self.images(count)])

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

    A run is also named as teachers are, `run:METHOD:PAIR`. Images that runs left out in training are left out.

    Raises:
        UsageError: a name stands for nothing, or the networks are of different datasets.
        CakdError: weights or data are missing.
    """
    teachers = Teachers(store, teacher_dir, Settings(), list(teacher_files))
    runs = {name: _find_run(name, teachers) for name in names if not _is_teacher(name)}
    students = {name: load_student(run, data_dir=data_dir) for name, run in runs.items()}
    datasets = {name: student.record.identity.dataset.name for name, student in students.items()}
    datasets |= {name: name.partition("@")[2] for name in names if name not in students}
    for name in datasets.values():
        check_dataset(name)
    if len(set(datasets.values())) > 1:
        raise UsageError(f"networks of different datasets cannot see the same images: {_listed(datasets)}")
    skipped = any(student.record.identity.dataset.skipped for student in students.values())
    dataset = load_dataset(datasets[names[0]], data_dir, on_bad_image="skip" if skipped else on_bad_image)
    recipe = next((student.recipe for student in students.values()), None)
    if recipe is None:
        model = teachers.entry(*names[0].split("@", 1)).zoo_model
        recipe = default_recipe(dataset.name, model_kind(model))
    networks, titles = [], _titles(students)
    for name in dict.fromkeys(names):
        if name in students:
            student = students[name]
            _must_fit(name, student.model.image_size, recipe)
            networks.append(NamedNetwork(titles[name], student.model, runs[name], student))
        else:
            networks.append(NamedNetwork(name, teachers.load(name.split("@", 1)[0], dataset, recipe).model))
    return Gallery(tuple(networks), dataset, recipe, teachers)


def _titles(students: Mapping[str, Student]) -> dict[str, str]:
    """Return what readers call each run: its label and student, with as much more as tells it from the others."""
    records = {name: student.record for name, student in students.items()}
    short = {name: f"{record.label} ({record.identity.student})" for name, record in records.items()}
    pairs = {name: f"{record.label} ({record.identity.pair.partition('@')[0]})" for name, record in records.items()}
    seeds = {name: f"{title}, seed {records[name].identity.seed}" for name, title in pairs.items()}
    keys = {name: record.key for name, record in records.items()}
    return next((titles for titles in (short, pairs, seeds) if len({*titles.values()}) == len(titles)), keys)


def _find_run(name: str, teachers: Teachers) -> RunFolder:
    """Return the run of a key, the start of one, a folder, or `run:METHOD:PAIR`, of which there must be one."""
    if not NAMED_RUN.match(name):
        return teachers.store.find(name.removeprefix(RUN))
    found = names_of(teachers.store, teachers.entries)[name]
    if len(found) != 1:
        keys = f": give one key of {listed(found)}" if found else "; see `cakdbench status`"
        raise UsageError(f"{name} means {len(found) or 'no'} finished runs in {teachers.store.root}{keys}")
    return teachers.store.find(found[0].key)


def _is_teacher(name: str) -> bool:
    """Return True for MODEL@DATASET, and run:KEY@DATASET.

    Raises:
        UsageError: it has several models, which are a network each.
    """
    if "@" not in name or NAMED_RUN.match(name) or Path(name).exists():
        return False
    models, _, dataset = name.partition("@")
    if "+" in models:
        each = " ".join(f"{model.strip()}@{dataset}" for model in models.split("+"))
        raise UsageError(f"{name} are several networks: name each of them, {each}")
    return True


def _listed(datasets: dict[str, str]) -> str:
    return ", ".join(f"{name} of {dataset}" for name, dataset in datasets.items())


def _must_fit(name: str, size: int, recipe: Recipe) -> None:
    if size != recipe.image_size:
        raise UsageError(
            f"{name} takes images of {size} px, the first run {recipe.image_size}: compare runs of one size"
        )
