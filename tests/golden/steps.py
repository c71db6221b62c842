"""Golden training steps of a method: what the engine computes, seen from outside of the method."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from cakdbench.labels import label
from cakdbench.method import Method, Step
from cakdbench.registry import get_method, method_ids, resolve_config
from cakdbench.train.lane import Lane
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.rng import seeded

from . import inputs

Values = dict[str, float]
"""The numbers of a training step by name: `loss LABEL`, `student gradient`, `extra gradient`, `logits`."""

SEED = 0


class Direction(NamedTuple):
    """Kinds of teacher and student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} > {self.student}"


DIRECTIONS = [Direction(*kinds) for kinds in itertools.product(inputs.MODELS, repeat=2)]
UNLIKE_FIRST = sorted(DIRECTIONS, key=lambda d: (d.teacher == d.student, d.teacher != "msa"))


def built_in() -> list[str]:
    """Return the ids of the methods that come with cakdbench."""
    return [id for id in method_ids() if get_method(id).__module__.startswith("cakdbench.methods.")]


def version_of(method: type[Method]) -> int:
    return method.version


def config_of(method: type[Method], variant: str | None, direction: Direction) -> Method.Config:
    return resolve_config(method, variant, inputs.info(direction.teacher), inputs.info(direction.student), "golden")


def on(direction: Direction, steps: dict[str, Values]) -> dict[str, Values]:
    """Return the steps of one direction."""
    return {name: values for name, values in steps.items() if name.split(", ")[1] == str(direction)}


def accepts(method: type[Method], variant: str | None, direction: Direction) -> bool:
    infos = inputs.info(direction.teacher), inputs.info(direction.student)
    return method.refuses(*infos, config_of(method, variant, direction)) is None


def variants_on(method: type[Method], direction: Direction) -> list[str | None]:
    """Return what is kept of a direction: the method itself, and the variants that have it as their one direction."""
    own = [None] if accepts(method, None, direction) else []
    return own + [variant for variant in method.variants if _direction_of(method, variant) == direction]


def _direction_of(method: type[Method], variant: str) -> Direction | None:
    """Return the first direction that the variant accepts; None if it needs larger models than these."""
    return next((direction for direction in UNLIKE_FIRST if accepts(method, variant, direction)), None)


def steps_on(method: type[Method], direction: Direction) -> dict[str, Values]:
    """Compute the golden steps of a direction, its variants' too, by name of the step."""
    return {
        f"{label(method.id, variant)}, {direction}, step {number}": values
        for variant in variants_on(method, direction)
        for number, values in enumerate(take_steps(method, variant, direction), 1)
    }


def take_steps(method: type[Method], variant: str | None, direction: Direction) -> list[Values]:
    """Train three steps as the engine does, in float64 on one thread; a variant's with one local batch each."""
    with inputs.float64():
        lane = _lane(method, variant, direction)
        return [_watched(lane, direction, number) for number in range(inputs.STEPS)]


def _lane(method: type[Method], variant: str | None, direction: Direction) -> Lane:
    accumulation = 2 if variant is None else 1
    teacher = inputs.teacher(direction.teacher) if method.needs else None
    student = inputs.student(direction.student)
    config = config_of(method, variant, direction)
    with seeded(SEED, method.id, "modules"):
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


def _watched(lane: Lane, direction: Direction, number: int) -> Values:
    """Train one step; losses are means over the local batches, gradients those that the optimizer gets."""
    seen: list[Step] = []
    norms: Values = {}
    hooks = [
        lane.method.register_forward_hook(lambda *call: seen.append(call[-1])),
        lane.optimizer.register_step_pre_hook(lambda *_: norms.update(_gradients(lane.method))),
    ]
    if number % inputs.STEPS_PER_EPOCH == 0:
        lane.start_epoch(number // inputs.STEPS_PER_EPOCH)
        lane.method.epoch_start(inputs.EPOCHS[number])
    for index, batch in enumerate(inputs.batches(direction.teacher, number, lane.accumulation)):
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
