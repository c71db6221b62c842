"""A first step of a method on one direction, made once for all checks that only look at it."""

import functools
from typing import Any

import torch
from torch import Tensor

from cakdbench.checks.lab import MODELS, Direction, Lab, make_batch, teacher_model
from cakdbench.method import Batch, Method, Step, sum_losses
from cakdbench.models.staged import Output
from cakdbench.utils.rng import seeded


def step(method: Method, batch: Batch, autocast: bool = False) -> Step:
    """Run one forward pass with the randomness the engine would give it."""
    with seeded("check step"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return method(batch)


def backward(method: Method, made: Step, retain_graph: bool = False) -> None:
    method.zero_grad(set_to_none=True)
    sum_losses(made.everything).backward(retain_graph=retain_graph)


class Trial:
    """A step on a direction.

    Attributes:
        size: of its batch.
        made: what the step gave.
        used: parts of the teacher that the step read; `model` if it ran the teacher itself.
    """

    def __init__(self, lab: Lab, direction: Direction, autocast: bool = False):
        self.teacher = teacher_model(MODELS[direction.teacher])
        self._teacher_was = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        self.method = lab.make(direction, self.teacher)
        self.size = 2 if autocast else 4  # many CPUs are slow in bf16
        self._step(make_batch(direction.teacher, self.size), autocast)

    def _step(self, batch: Batch, autocast: bool) -> None:
        calls: list[str] = []
        batch.teacher = watched = Watched(**vars(batch.teacher))
        hooks = [m.register_forward_pre_hook(lambda *_: calls.append("")) for m in self.teacher.net.modules()]
        self.made = step(self.method, batch, autocast)
        for hook in hooks:
            hook.remove()
        self.used = object.__getattribute__(watched, "read") | ({"model"} if calls else set())

    @functools.cached_property
    def grads(self) -> dict[str, Tensor | None]:
        """The gradients of the sum of all losses, by parameter of the method."""
        backward(self.method, self.made, retain_graph=True)
        return {name: parameter.grad for name, parameter in self.method.named_parameters()}

    def teacher_changed(self) -> bool:
        """Return True if the teacher is in another state, or mode, than before the step."""
        state = self.teacher.state_dict()
        return self.teacher.training or any(not torch.equal(self._teacher_was[name], state[name]) for name in state)


class Watched(Output):
    """An output of one teacher that notes which of its fields are read; `each`, of several, is none of them."""

    def __init__(self, **parts: Any):
        object.__setattr__(self, "read", set())
        super().__init__(**parts)

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "__dataclass_fields__") and name != "each":
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)


def trial(lab: Lab, direction: Direction) -> Trial:
    """Return the lab's step in fp32 on this direction."""
    if direction not in lab.trials:
        lab.trials[direction] = Trial(lab, direction)
    return lab.trials[direction]
