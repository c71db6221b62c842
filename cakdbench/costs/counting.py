"""Counts multiply-adds without computing anything.

Models and images lie on torch's meta device: tensors have shapes and no content, so that a network of any size is
counted in the time Python takes to walk through it. Counted are convolutions and matrix products, attention's among
them, by the formulas of torch's FlopCounterMode over 2. Norms, activations, softmax, pooling and sums are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cakdbench.utils.meta import VALUES, call, meta_as_device


class Meter(TorchDispatchMode):
    """Adds up multiply-adds of forward passes while it is active.

    Where code asks for the value of a meta tensor it is told 0 or False, and that two such tensors are equal: it takes
    the way it would take if all tensors were zeros.

    Args:
        modules: those to tell apart; a pass through one, with all that happens inside, also goes into `inside`.

    Attributes:
        total: multiply-adds of everything.
        inside: those within calls of `modules`.
    """

    def __init__(self, modules: Iterable[nn.Module] = ()):
        super().__init__()
        self.total = self.inside = 0
        self._modules = list(modules)
        self._depth = self._entered = 0
        self._around = contextlib.ExitStack()

    def __enter__(self) -> Meter:
        for module in self._modules:
            self._around.callback(module.register_forward_pre_hook(self._enter_module).remove)
            self._around.callback(module.register_forward_hook(self._leave_module).remove)
        self._around.enter_context(meta_as_device())
        # torch has no formula for the CPU's fused attention; taken apart, it is two products everywhere.
        self._around.enter_context(sdpa_kernel(SDPBackend.MATH))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._around.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in VALUES and args[0].is_meta:
            return VALUES[func]
        out = call(func, args, kwargs or {})
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        if not self._depth:
            self._entered = self.total
        self._depth += 1

    def _leave_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self.inside += self.total - self._entered


def zeros(*shape: int) -> Tensor:
    """Return a tensor of that shape on the meta device."""
    return torch.zeros(shape, device="meta")
