"""The one way to build a method, for the engine, checks, counts and loops of one's own."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cakdbench.method import Method
from cakdbench.models.staged import StagedModel
from cakdbench.registry import resolve_config, split_variant
from cakdbench.utils.errors import UsageError
from cakdbench.utils.meta import ContentFree
from cakdbench.utils.rng import seeded


def build_method(
    method: type[Method] | str,
    student: StagedModel,
    teacher: StagedModel | None = None,
    config: Method.Config | None = None,
    *,
    dataset: str = "",
    settings: Mapping[str, Any] | None = None,
    labels: Tensor | None = None,
    seed: int | None = None,
) -> Method:
    """Build a method around a student; the teacher becomes frozen, in eval mode, and no submodule.

    Args:
        method: its class, or a label: `METHOD`, `METHOD:VARIANT` or `METHOD[KEY=VALUE]`.
        teacher: left out by methods that need none.
        config: the method's numbers; None to resolve them for the pair and `dataset`, with `settings` over the label's.
        labels: `(N,)` classes of the training samples, for methods that tell samples apart.
        seed: of the weights of the extra modules; None to draw them from the generators as they stand.

    Raises:
        UsageError: a name is unknown, a setting wrong, the teacher missing, or without `config` the pair refused.
    """
    kind, variant = split_variant(method) if isinstance(method, str) else (method, None)
    if kind.needs and teacher is None:
        raise UsageError(f"{kind.id} learns from a teacher: give one")
    if config is None:
        config = _resolve(kind, variant, student, teacher, dataset, dict(settings or {}))
    if teacher is not None:
        teacher.requires_grad_(False).eval()
    with contextlib.nullcontext() if seed is None else seeded(seed, kind.id, "modules"):
        return kind(student, teacher if kind.needs else None, config, labels)


def _resolve(
    method: type[Method],
    variant: str | None,
    student: StagedModel,
    teacher: StagedModel | None,
    dataset: str,
    settings: dict[str, Any],
) -> Method.Config:
    infos = (teacher or student).info, student.info
    config = resolve_config(method, variant, *infos, dataset, settings)
    if reason := method.refuses(*infos, config):
        raise UsageError(f"{method.id} refuses {infos[0].name}>{infos[1].name}: {reason}")
    return config


def count_extra_parameters(
    method: type[Method], student: StagedModel, teacher: StagedModel | None, config: Method.Config
) -> int:
    """Return the trainable parameters that a method adds to a student, without allocating any."""
    labels = torch.arange(2 * student.num_classes) % student.num_classes
    with torch.device("meta"), ContentFree():
        return build_method(method, student, teacher, config, labels=labels).extra_parameters()
