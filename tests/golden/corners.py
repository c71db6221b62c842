"""Batches at the corners of what a method meets: each makes a golden step of its own, on one direction."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from cakdbench.method import Batch
from cakdbench.models.staged import StagedModel

from . import inputs
from .files import HALF

Corner = Callable[[Batch, StagedModel, str], Batch]
"""Changes a batch, or the student, given the kind of the teacher."""


def _one_image(batch: Batch, student: StagedModel, kind: str) -> Batch:
    """Of one sample again and again: one class, in other views."""
    return replace(batch, index=torch.full_like(batch.index, batch.index[0]), target=batch.target[:1].repeat(4))


def _equal_images(batch: Batch, student: StagedModel, kind: str) -> Batch:
    """Three images look like one: the second is, the third nearly."""
    first, other = batch.images[0], batch.images[3]
    return _seen(replace(batch, images=torch.stack([first, first, first + 1e-4 * other, other])), kind)


def _two_samples(batch: Batch, student: StagedModel, kind: str) -> Batch:
    return _seen(replace(batch, images=batch.images[:2], target=batch.target[:2], index=batch.index[:2]), kind)


def _wrong_teacher(batch: Batch, student: StagedModel, kind: str) -> Batch:
    """The teacher gives the true class no probability at all."""
    wrong = functional.one_hot((batch.target + 1) % inputs.CLASSES, inputs.CLASSES)
    return replace(batch, teacher=replace(batch.teacher, logits=1e4 * wrong.double()))


def _faint_student(batch: Batch, student: StagedModel, kind: str) -> Batch:
    """The student tells classes hardly apart, as one whose classifier starts at zeros."""
    for parameter in student.net.get_classifier().parameters():
        parameter.data.mul_(1e-4)
    return batch


def _seen(batch: Batch, kind: str) -> Batch:
    return replace(batch, teacher=inputs.teach(kind, batch.images))


def _as_it_is(batch: Batch, student: StagedModel, kind: str) -> Batch:
    return _seen(batch, kind)


CORNERS: dict[str, Corner] = {
    "one image": _one_image,
    "equal images": _equal_images,
    "two samples": _two_samples,
    "wrong teacher": _wrong_teacher,
    "faint student": _faint_student,
    HALF: _as_it_is,
}
