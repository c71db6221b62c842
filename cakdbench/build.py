"""The one way to build a method, for the engine, checks, counts and loops of one's own."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cakdbench.method import Method
from cakdbench.models.staged import ModelInfo, NoStages, StagedModel, native_size
from cakdbench.registry import resolve_config, split_variant
from cakdbench.utils.errors import RAISED, UsageError, describe_error, file_of
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
        UsageError: a name is unknown, a setting wrong, the teacher missing or of other classes, or without `config` the
            pair refused.
    """
    kind, variant = split_variant(method) if isinstance(method, str) else (method, None)
    if kind.needs and teacher is None:
        raise UsageError(f"{kind.id} learns from a teacher: give one")
    if teacher is not None and teacher.num_classes != student.num_classes:
        raise UsageError(
            f"the teacher {teacher.name} tells {teacher.num_classes} classes apart and the student {student.name} "
            f"{student.num_classes}: give both heads of the same classes"
        )
    if config is None:
        config = _resolve(kind, variant, student, teacher, dataset, dict(settings or {}))
    if teacher is not None:
        teacher.requires_grad_(False).eval()
    with contextlib.nullcontext() if seed is None else seeded(seed, kind.id, "modules"):
        return kind(student, teacher if kind.needs else None, config, labels)


def staged_pair(student: Any, teacher: Any, size: int | None = None, split: str = "ofa") -> tuple[Any, Any]:
    """Return networks as staged models, and what else is given, such as names, as it is.

    Args:
        size: of the images, in pixels; default: what a network was made for, or the other one.

    Raises:
        UsageError: a network gives no logits, or nothing says which images they take.
    """
    given = [model for model in (student, teacher) if isinstance(model, nn.Module)]
    sizes = [model.image_size if isinstance(model, StagedModel) else native_size(model) for model in given]
    other = next(filter(None, sizes), None)

    def staged(model: Any) -> Any:
        if isinstance(model, StagedModel) or not isinstance(model, nn.Module):
            return model
        return StagedModel.wrap(model, size or native_size(model) or other, split)

    return staged(student), staged(teacher)


FEATURES = frozenset({"pooled", "stages", "preacts", "attention"})
"""Parts that some networks do not give."""


def refusal(method: type[Method], teacher: ModelInfo, student: ModelInfo, config: Method.Config) -> str | None:
    """Return why a method cannot run on a pair, or None: what it says itself, or what a network does not give.

    What a method needs of the teacher it is taken to need of the student.
    """
    if teacher.members and method.needs and method.several_teachers is None:
        return f"{method.id} learns from one teacher, and {teacher.name} are {len(teacher.members)}"
    for model in (*(teacher.members or (teacher,)), student):
        if missing := method.needs & FEATURES - model.parts:
            why = f" ({model.layouts.reason})" if isinstance(model.layouts, NoStages) else ""
            return f"{method.id} needs {', '.join(sorted(missing))}, which {model.name} does not give{why}"
    try:
        return method.refuses(teacher, student, config)
    except UsageError as error:  # it asks for stages that a network does not have
        return str(error)
    except RAISED as error:  # a method may raise anything, and must not take the others with it
        return f"its refuses() fails: {describe_error(error, file_of(method))}"


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
    if reason := refusal(method, *infos, config):
        raise UsageError(f"{method.id} refuses {infos[0].name}>{infos[1].name}: {reason}")
    return config


def count_extra_parameters(
    method: type[Method], student: StagedModel, teacher: StagedModel | None, config: Method.Config
) -> int:
    """Return the trainable parameters that a method adds to a student, without allocating any."""
    labels = torch.arange(2 * student.num_classes) % student.num_classes
    with torch.device("meta"), ContentFree():
        return build_method(method, student, teacher, config, labels=labels).extra_parameters()
