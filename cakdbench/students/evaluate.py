"""Test finished runs again: on their own test images, corrupted ones, or another dataset of the same classes."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from accelerate import Accelerator

from cakdbench.data.classes import in_order
from cakdbench.data.corruptions import corrupt
from cakdbench.data.datasets import OnBadImage, check_dataset, load_dataset
from cakdbench.data.splits import Colour, ImageDataset
from cakdbench.data.stream import EvalStream
from cakdbench.students.student import Student
from cakdbench.train.evaluate import Examiner
from cakdbench.utils.corruptions import Corruption
from cakdbench.utils.errors import CakdError
from cakdbench.utils.precision import in_precision

CLEAN = "none"
COLUMNS = ["key", "method", "student", "dataset", "seed", "corruption", "severity", "strength", "top1", "drop", "top5"]


def evaluate_students(
    students: Sequence[Student],
    corruptions: Sequence[Corruption] = (),
    dataset: str | None = None,
    *,
    data_dir: Path | None = None,
    on_bad_image: OnBadImage = "refuse",
    accelerator: Accelerator | None = None,
    workers: int = 0,
    failed: dict[str, CakdError] | None = None,
) -> pd.DataFrame:
    """Return the accuracies of students on a test set as it is and under each corruption, a row each, of a run once.

    Columns: key, method, student, dataset, seed; corruption ("none" for clean images), severity of ImageNet-C,
    strength; top1 and top5 in percent; drop, the points of top1 that the corruption costs.

    Args:
        dataset: instead of each run's own; its classes have the same names.
        on_bad_image: of images that cannot be read; a run that left them out in training is tested without them.
        failed: gets, by key, why students could not be tested, which then stop no others.

    Raises:
        UsageError: the dataset has other classes.
        CakdError: data are missing.
    """
    if dataset:
        check_dataset(dataset)
    students = list({student.record.key: student for student in students}.values())
    device = accelerator or Accelerator(cpu=True)
    rows: list[dict] = []
    for _, group in groupby(sorted(students, key=_images), key=_images):
        same = list(group)
        try:
            data = _data(same[0], dataset, data_dir, on_bad_image)
            rows += [row for noise in (None, *corruptions) for row in _pass(same, data, noise, device, workers)]
        except CakdError as error:
            if failed is None:
                raise
            failed |= {student.record.key: error for student in same}
    frame = pd.DataFrame(rows, columns=[column for column in COLUMNS if column != "drop"])
    clean = frame[frame["corruption"] == CLEAN].set_index("key")["top1"]
    frame["drop"] = frame["key"].map(clean) - frame["top1"]
    order = {student.record.key: place for place, student in enumerate(students)}
    return frame.sort_values("key", key=lambda keys: keys.map(order), kind="stable")[COLUMNS].reset_index(drop=True)


def _images(student: Student) -> str:
    """Return what decides which images a student sees, as which classes: students that agree in it share a pass."""
    data, recipe = student.record.identity.dataset, student.recipe
    made = recipe.image_size, recipe.evaluation.crop_pct, recipe.evaluation.interpolation
    return repr((data.name, data.skipped, *made, student.facts))


def _data(student: Student, other: str | None, data_dir: Path | None, on_bad_image: OnBadImage) -> ImageDataset:
    """Return the data that a student is tested on, its classes in the student's order."""
    own = student.record.identity.dataset
    left_out = own.skipped and not other
    data = load_dataset(other or own.name, data_dir, on_bad_image="skip" if left_out else on_bad_image)
    if not other and data.fingerprint != own.fingerprint:
        warnings.warn(f"{own.name}: the images have changed since {student.record.key} was trained", stacklevel=3)
    return in_order(data, student.facts.class_names, student.record.key)


@torch.no_grad()
def _pass(
    students: Sequence[Student], data: ImageDataset, corruption: Corruption | None, device: Accelerator, workers: int
) -> Iterator[dict]:
    """Yield the rows of one pass over the test images, normalised as in the students' training."""
    facts = students[0].facts
    seen = replace(data, mean=cast(Colour, facts.mean), std=cast(Colour, facts.std))
    change = partial(corrupt, corruption) if corruption else None
    stream = EvalStream(seen.test, seen, students[0].recipe, workers=workers, change=change)
    examiners = [Examiner(student.model.to(device.device)) for student in students]
    for images, labels, index in stream:
        images = images.to(device.device)
        for student, examiner in zip(students, examiners):
            with in_precision(student.record.identity.precision, device.device):
                examiner.see(images, labels, index)
    noise: dict[str, object] = {"corruption": CLEAN, "severity": None, "strength": None}
    if corruption:
        noise = {"corruption": corruption.kind, "severity": corruption.severity, "strength": corruption.strength}
    for student, examiner in zip(students, examiners):
        record, result = student.record, examiner.result()
        names = {"key": record.key, "method": record.label, "student": record.identity.student}
        yield (
            names
            | {"dataset": data.name, "seed": record.identity.seed, **noise}
            | {
                "top1": result.top1,
                "top5": result.top5,
            }
        )
