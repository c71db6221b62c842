"""Real steps on published pairs, at 224 px with the pair's number of classes: what the tests of both suites share.

A model is made once for all pairs it is part of, and a teacher sees its images once for all students and methods.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.pairs import Pair
from cakdbench.grid.suites import resolve_pairs
from cakdbench.method import Batch, Method
from cakdbench.models.staged import StagedModel
from cakdbench.registry import method_ids, resolve_config
from tests.methods.method_lab import batch_for, gradients, make, parts_of
from tests.models.awake import QuickDraws, awake

METHODS = [id for id in method_ids() if id != "fbt"]

AT_THE_END = ("dkd", "dist", "lskd", "rkd", "cc", "crd", "rsd")
"""Their losses enter the student where those of kd do, at logits and final feature: there their gradient is taken."""

ALONE = ("at", "dkd", "fcfd", "fitnet", "fofa", "kd", "lskd", "ofa", "ofd", "pcagl", "scratch")
"""Their losses compare no images with each other, and take a batch of one."""


def published(suite: str) -> list[Pair]:
    """The pairs of a suite; those of a teacher follow each other."""
    return sorted({spec.pair for spec in resolve_pairs(suite)}, key=str)


@dataclass
class Cell:
    """A pair, its models, and batches of one and of two images that the teacher has seen; the methods share them."""

    pair: Pair
    teacher: StagedModel
    student: StagedModel
    batches: dict[int, Batch]

    def batch(self, method: type[Method]) -> Batch:
        return self.batches[1 if method.id in ALONE else 2]


def cell_of(pair: Pair) -> Cell:
    classes = dataset_facts(pair.dataset).num_classes
    teacher, batches = _taught(pair.teacher, classes)
    return Cell(pair, teacher, _student(pair.student, classes), batches)


@functools.lru_cache(maxsize=1)
def _taught(name: str, classes: int) -> tuple[StagedModel, dict[int, Batch]]:
    teacher = awake(name, classes, 224).requires_grad_(False).eval()
    return teacher, {size: batch_for(teacher, size, classes, 224) for size in (1, 2)}


@functools.lru_cache(maxsize=8)
def _student(name: str, classes: int) -> StagedModel:
    return awake(name, classes, 224).train()


def step_of(method: type[Method], cell: Cell) -> tuple[Method, dict[str, Tensor]] | None:
    """The method in training, and the finite losses of its first step; None if it refuses the pair."""
    config = resolve_config(method, None, cell.teacher.info, cell.student.info, cell.pair.dataset)
    if reason := method.refuses(cell.teacher.info, cell.student.info, config):
        assert method.id == "pcagl" and (cell.teacher.kind == "cnn" or cell.student.kind != "cnn"), reason
        return None
    with QuickDraws():
        trained = make(method, cell.teacher, cell.student, **vars(config))
    losses = trained(cell.batch(method)).losses
    assert all(loss.isfinite() for loss in losses.values())
    return trained, losses


def reached(losses: list[Tensor], parameters: dict[str, Tensor]) -> set[str]:
    """Names of the parameters whose gradient exists and is not zero; all gradients must be finite."""
    peaks = {}
    for name, grad in gradients(sum(losses), parameters.items()).items():
        low, high = (0.0, 0.0) if grad is None else map(float, grad.aminmax())
        peaks[name] = torch.tensor(max(abs(low), abs(high)))
    assert all(peak.isfinite() for peak in peaks.values())
    return {name for name, peak in peaks.items() if peak > 0}


def assert_a_step_trains_the_student_and_leaves_the_teacher(method: type[Method], cell: Cell) -> None:
    made = step_of(method, cell)
    if made is None:
        return
    trained, losses = made
    parameters = dict(trained.named_parameters())
    if method.id in AT_THE_END:
        last = {p for p in cell.student.net.get_classifier().parameters()}
        parameters = {name: p for name, p in parameters.items() if not name.startswith("student.") or p in last}
    found = reached(list(losses.values()), parameters)
    assert {name for name in parameters if name.startswith("student.")} <= found
    assert all(p.grad is None and not p.requires_grad for p in cell.teacher.parameters())


def assert_fbt_trains_what_each_loss_may(method: type[Method], cell: Cell) -> None:
    trained, losses = step_of(method, cell)
    to_fused = [losses.pop("ofa_tf"), losses.pop("nce_tf")]
    parts, parameters = parts_of(trained), dict(trained.named_parameters())
    shared = parts["early"] | {"log_scale"} if trained.student_in_front else parts["late"] | parts["rest"]
    assert reached(to_fused, parameters) == parts["l2g"] | shared
    assert reached(list(losses.values()), parameters) == set(parameters) - parts["l2g"]
