"""Batches for a method outside of the trainer: for loops of one's own and timm's."""

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.nn import functional

from cakdbench.method import Batch, Method, teacher_output
from cakdbench.utils.errors import UsageError


def make_batch(
    method: Method,
    images: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    micro_batch: int = 0,
    criterion: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> Batch:
    """Return what `method(batch)` takes: the images, their labels, and the frozen teacher's outputs on them.

    Args:
        images: `(B, 3, S, S)`, on the method's device.
        target: `(B,)` class indices or `(B, C)` probabilities.
        index: `(B,)` positions of the samples among the labels that the method was built with.
        micro_batch: which local batch of the optimizer step, counted over all processes.
        criterion: `(logits, target) -> scalar`, the label loss.

    Raises:
        UsageError: the method tells samples apart, and there is no `index`.
    """
    if method.labels is not None and index is None:
        raise UsageError(f"{method.id} tells samples apart: give the index of the images")
    places = cast(Tensor, index)  # None only for methods without labels, which never look at it
    taught = teacher_output(method.teacher, images, method.needs)
    return Batch(images, target, places, epoch, step, criterion, taught, micro_batch)
