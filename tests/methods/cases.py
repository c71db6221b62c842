"""A method on a pair, ready to step: what the tests of all registered methods share."""

import functools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cakdbench.checks.lab import SIZE
from cakdbench.method import TEACHER_PARTS, Batch, Method, Step
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config, split_variant
from cakdbench.utils.rng import seeded
from tests.methods.method_lab import CLASSES, MINI, batch_for, make, student, teacher


def refusal(name: str, pair: tuple[str, str]) -> str | None:
    method_type, variant = split_variant(name)
    infos = [model_info(MINI.get(family, family), CLASSES, SIZE) for family in pair]
    return method_type.refuses(*infos, resolve_config(method_type, variant, *infos, "cifar100"))


def cases(names: list[str], pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrise over the methods' labels and the pairs they take."""
    taken = [(name, pair) for name in names for pair in pairs if refusal(name, pair) is None]
    return pytest.mark.parametrize("name, pair", taken, ids=["{}-{}>{}".format(name, *pair) for name, pair in taken])


@dataclass
class Case:
    """A method on a pair, and a batch with no more of the teacher than it needs."""

    method: Method
    batch: Batch
    teacher: StagedModel

    @property
    def trainable(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in self.method.named_parameters() if p.requires_grad]

    def step(self, **changes: object) -> Step:
        """Step on the batch with some changes, whatever is drawn at random the same in every call."""
        with seeded("step"):
            return self.method(replace(self.batch, **changes))


def case_of(name: str, pair: tuple[str, str], size: int = 4, **overrides: object) -> Case:
    method_type, variant = split_variant(name)
    (frozen, batch), model = taught(pair[0], size), student(pair[1])
    config = resolve_config(method_type, variant, frozen.info, model.info, "cifar100", overrides)
    method = make(method_type, frozen if method_type.needs else None, model, **vars(config))
    unread = {part: None for part in TEACHER_PARTS - {"model"} - method.needs}
    return Case(method, replace(batch, teacher=replace(batch.teacher, **unread)), frozen)


@functools.cache
def taught(family: str, size: int) -> tuple[StagedModel, Batch]:
    """Return a teacher and a batch that it has seen, the same for all tests: a step must not change them."""
    frozen = teacher(family)
    return frozen, batch_for(frozen, size)


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def contents(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch and of the teacher's outputs in it, by place."""
    tensors = {"images": batch.images, "target": batch.target, "index": batch.index}
    for part, value in vars(batch.teacher).items():
        tensors |= {f"{part}.{i}": x for i, x in enumerate(_tensors(value))}
    return tensors


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for part in value or () for x in _tensors(part)]
