"""The counter of the papers' cost tables, by the rules of thop 0.1.1, which FBT and TAS fit to the printed digits.

It hooks leaf modules. One adds its parameters and multiply-adds only if it is called and its type has a rule: what is
written as a function (attention products, `F.linear` on a layer's weight, position embeddings, class tokens, layer
scales) is not seen, and softmax, norms and pooling are. Types have to be exact, as in thop; LayerNorm, of which timm
makes subclasses since 1.0.19, is found with its subclasses, so that the count does not depend on timm's version.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cakdbench.costs.counting import Meter

Rule = Callable[[Any, Tensor, Tensor], int]


def _norm(module: nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm, x: Tensor, out: Tensor) -> int:
    affine = module.elementwise_affine if isinstance(module, nn.LayerNorm) else module.affine
    return (4 if affine else 2) * x.numel()


def _softmax(module: Any, x: Tensor, out: Tensor) -> int:
    length = x.shape[module.dim]
    return x.numel() // length * (3 * length - 1)


def _adaptive_pool(module: nn.Module, x: Tensor, out: Tensor) -> int:
    window = math.prod(side // goal for side, goal in zip(x.shape[2:], out.shape[2:], strict=True))
    return (window + 1) * out.numel()


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: lambda conv, x, out: out.numel() * (conv.in_channels // conv.groups) * math.prod(conv.kernel_size),
    nn.Linear: lambda linear, x, out: out.numel() * linear.in_features,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.LayerNorm: _norm,
    nn.Softmax: _softmax,
    nn.AvgPool2d: lambda pool, x, out: out.numel(),
    nn.AdaptiveAvgPool2d: _adaptive_pool,
}
"""Multiply-adds of a call, from module, input and output; thop's other types, as ReLU, have none."""


@dataclass
class LegacyCount:
    """Multiply-adds of every call, and the parameters of each called module, once."""

    macs: int = 0
    seen: dict[nn.Module, int] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(self.seen.values())

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Count a call; a forward hook."""
        rule = _rule_of(module)
        self.macs += rule(module, inputs[0], out) if rule else 0
        self.seen[module] = sum(p.numel() for p in module.parameters())


def _rule_of(module: nn.Module) -> Rule | None:
    return RULES.get(nn.LayerNorm if isinstance(module, nn.LayerNorm) else type(module))


@contextlib.contextmanager
def legacy_counting(modules: Iterable[nn.Module]) -> Iterator[LegacyCount]:
    """Count the calls of the leaves among `modules` inside the block."""
    count = LegacyCount()
    with contextlib.ExitStack() as hooks:
        for module in modules:
            if not any(True for _ in module.children()) and _rule_of(module):
                hooks.callback(module.register_forward_hook(count.see).remove)
        yield count


@dataclass(frozen=True)
class ModuleCost:
    """Parameters and multiply-adds of one forward pass of a module, true and by the legacy rules."""

    parameters: int
    macs: int
    legacy_parameters: int
    legacy_macs: int

    def __add__(self, other: ModuleCost) -> ModuleCost:
        mine, theirs = vars(self), vars(other)
        return ModuleCost(**{name: mine[name] + theirs[name] for name in mine})


def module_cost(module: nn.Module, *inputs: Tensor) -> ModuleCost:
    """Count one call of a module, in the mode it is in; all its parameters count, frozen or not."""
    with Meter() as meter, legacy_counting(module.modules()) as legacy, torch.no_grad():
        module(*inputs)
    parameters = sum(p.numel() for p in module.parameters())
    return ModuleCost(parameters, meter.total, legacy.parameters, legacy.macs)
