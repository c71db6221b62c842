"""Golden training steps of a method: what the engine computes, seen from outside of the method."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cakdbench.labels import label
from cakdbench.method import Batch, Method, Step
from cakdbench.models.staged import ModelInfo
from cakdbench.registry import get_method, method_ids, resolve_config
from cakdbench.train.lane import Lane
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.rng import seeded

from . import inputs
from .corners import CORNERS
from .files import HALF, Values
from .modes import HalfPrecision, SharedDraws

SEED = 0


class Direction(NamedTuple):
    """Kinds of teacher and student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} > {self.student}"

    @property
    def windowed(self) -> bool:
        return "swin" in self

    @property
    def size(self) -> int:
        return inputs.LARGE if self.windowed else inputs.SIZE

    @property
    def steps(self) -> int:
        return 2 if self.windowed else inputs.STEPS


WINDOWED = [Direction("swin", "cnn"), Direction("cnn", "swin")]
DIRECTIONS = [Direction(*kinds) for kinds in itertools.product(("cnn", "msa", "mlp"), repeat=2)] + WINDOWED
UNLIKE_FIRST = sorted(DIRECTIONS, key=lambda d: (d.windowed, d.teacher == d.student, d.teacher != "msa"))


def built_in() -> list[str]:
    """Return the ids of the methods that come with cakdbench."""
    return [id for id in method_ids() if get_method(id).__module__.startswith("cakdbench.methods.")]


def version_of(method: type[Method]) -> int:
    return method.version


def config_of(method: type[Method], variant: str | None, direction: Direction) -> Method.Config:
    return resolve_config(method, variant, *_infos(direction), "golden")


def _infos(direction: Direction) -> tuple[ModelInfo, ModelInfo]:
    return inputs.info(direction.teacher, direction.size), inputs.info(direction.student, direction.size)


def on(direction: Direction, steps: dict[str, Values]) -> dict[str, Values]:
    """Return the steps of one direction."""
    return {name: values for name, values in steps.items() if name.split(", ")[1] == str(direction)}


def accepts(method: type[Method], variant: str | None, direction: Direction) -> bool:
    return method.refuses(*_infos(direction), config_of(method, variant, direction)) is None


def variants_on(method: type[Method], direction: Direction) -> list[str | None]:
    """Return what is kept of a direction: the method itself, and the variants that have it as their one direction."""
    own = [None] if accepts(method, None, direction) else []
    return own + [variant for variant in method.variants if direction_of(method, variant) == direction]


def direction_of(method: type[Method], variant: str | None) -> Direction | None:
    """Return the first direction that the variant accepts; None if it needs larger models than these."""
    return next((direction for direction in UNLIKE_FIRST if accepts(method, variant, direction)), None)


def steps_on(method: type[Method], direction: Direction) -> dict[str, Values]:
    """Compute the golden steps of a direction, its variants' and corners too, by name of the step."""
    steps = {
        f"{label(method.id, variant)}, {direction}, step {number}": values
        for variant in variants_on(method, direction)
        for number, values in enumerate(take_steps(method, variant, direction), 1)
    }
    if direction_of(method, None) == direction:
        steps |= {f"{method.id}, {direction}, {name}": take_corner(method, direction, name) for name in CORNERS}
    return steps


def take_steps(
    method: type[Method], variant: str | None, direction: Direction, resume: bool | None = None
) -> list[Values]:
    """Train three steps as the engine does, in float64 on one thread; two, and one local batch each, with windows.

    Args:
        resume: take all but the first from its checkpoint; None: a variant's, which have one local batch each.
    """
    plain = variant is None and not direction.windowed
    with inputs.float64(), SharedDraws():
        lane = _lane(method, variant, direction, accumulation=2 if plain else 1)
        values = [_watched(lane, direction, 0)]
        if variant is not None if resume is None else resume:
            lane = _resumed(lane, method, variant, direction)
        return values + [_watched(lane, direction, number) for number in range(1, direction.steps)]


def take_corner(method: type[Method], direction: Direction, corner: str) -> Values:
    """Train one step on a batch of `CORNERS`."""
    half = corner == HALF
    with inputs.float64(), SharedDraws(), HalfPrecision(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        lane = _lane(method, None, direction)
        batch = next(inputs.batches(direction.teacher, direction.size, 0, 1))
        lane.start_epoch(0)
        return _step(lane, [CORNERS[corner](batch, lane.method.student, direction.teacher)])


def _lane(
    method: type[Method], variant: str | None, direction: Direction, accumulation: int = 1, seed: int = SEED
) -> Lane:
    teacher = inputs.teacher(direction.teacher, direction.size) if method.needs else None
    student = inputs.student(direction.student, direction.size, 1 + seed)
    config = config_of(method, variant, direction)
    with seeded(seed, method.id, "modules"):
        made = method(student, teacher, config, inputs.dataset_labels())
    return Lane(
        made,
        inputs.recipe(accumulation),
        SEED,
        make_accelerator(cpu=True),
        steps_per_epoch=inputs.STEPS_PER_EPOCH,
        accumulation=accumulation,
        label=method.id,
    )


def _resumed(lane: Lane, method: type[Method], variant: str | None, direction: Direction) -> Lane:
    """Return another lane, which began elsewhere, in the state of this one."""
    other = _lane(method, variant, direction, lane.accumulation, seed=SEED + 1)
    lane.method.before_save()
    other.load(copy.deepcopy(lane.state()))
    other.start_epoch(0)
    return other


def _watched(lane: Lane, direction: Direction, number: int) -> Values:
    """Train step `number`."""
    if number % inputs.STEPS_PER_EPOCH == 0:
        lane.start_epoch(number // inputs.STEPS_PER_EPOCH)
        lane.method.epoch_start(inputs.EPOCHS[number])
    return _step(lane, inputs.batches(direction.teacher, direction.size, number, lane.accumulation))


def _step(lane: Lane, batches: Iterable[Batch]) -> Values:
    """Train on a step's batches; losses are means over them, gradients those that the optimizer gets."""
    seen: list[Step] = []
    norms: Values = {}
    hooks = [
        lane.method.register_forward_hook(lambda *call: seen.append(call[-1])),
        lane.optimizer.register_step_pre_hook(lambda *_: norms.update(_gradients(lane.method))),
    ]
    for index, batch in enumerate(batches):
        lane.local_step(batch, index)
    for hook in hooks:
        hook.remove()
    buffers = norm(buffer for buffer in lane.method.buffers() if buffer.is_floating_point())
    return _losses(seen) | norms | {"logits": norm(step.logits for step in seen), "buffers": buffers}


def _losses(steps: list[Step]) -> Values:
    names = dict.fromkeys(name for step in steps for name in step.everything)
    return {f"loss {name}": sum(step.everything[name].item() for step in steps) / len(steps) for name in names}


def _gradients(method: Method) -> Values:
    student = list(method.student.parameters())
    inside = {id(p) for p in student}
    extra = (p for p in method.parameters() if id(p) not in inside)
    return {"student gradient": norm(_grads(student)), "extra gradient": norm(_grads(extra))}


def _grads(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    return (p.grad for p in parameters if p.grad is not None)


def norm(tensors: Iterable[Tensor]) -> float:
    """Return the Euclidean norm of all elements of all tensors."""
    return sum(tensor.detach().double().square().sum().item() for tensor in tensors) ** 0.5
