"""Ask a student what is on images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cakdbench.data.augment import eval_transform
from cakdbench.data.images import read_image
from cakdbench.students.student import Student

BATCH = 64


@torch.no_grad()
def predict(student: Student, paths: Sequence[Path], top: int = 5) -> pd.DataFrame:
    """Return the likeliest classes of images, prepared as for the run's evaluation: `top` rows an image, best first.

    Columns: image (as given), rank from 1, class, index of the class, probability.

    Raises:
        CakdError: an image cannot be read.
    """
    top = min(top, len(student.facts.class_names))
    rows = []
    for start, images in _batches(student, paths):
        best = student.model(images).logits.float().softmax(1).topk(top)
        for path, values, indices in zip(paths[start:], best.values.tolist(), best.indices.tolist()):
            for rank, (value, index) in enumerate(zip(values, indices), 1):
                rows.append((str(path), rank, student.facts.class_names[index], index, value))
    return pd.DataFrame(rows, columns=["image", "rank", "class", "index", "probability"])


def _batches(student: Student, paths: Sequence[Path]) -> Iterator[tuple[int, Tensor]]:
    """Yield the position of the first image, and images `(B, 3, S, S)` float32, normalised."""
    transform = eval_transform(student.recipe)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (student.facts.mean, student.facts.std))
    for start in range(0, len(paths), BATCH):
        images = torch.stack([transform(read_image(str(path))) for path in paths[start : start + BATCH]])
        yield start, (images.float() / 255 - mean) / std
