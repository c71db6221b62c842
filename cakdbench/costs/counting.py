"""Counts multiply-adds without computing anything.

Models and images lie on torch's meta device: tensors have shapes and no content, so that a network of any size is
counted in the time Python takes to walk through it. Counted are convolutions and matrix products, attention's among
them, by the formulas of torch's FlopCounterMode over 2. Norms, activations, softmax, pooling and sums are not.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cakdbench.utils.meta import VALUES


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
        self._around.enter_context(_autocast_knows_meta())
        # torch has no formula for the CPU's fused attention; taken apart, it is two products everywhere.
        self._around.enter_context(sdpa_kernel(SDPBackend.MATH))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._around.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in VALUES and args[0].is_meta:
            return VALUES[func]
        out, macs = _call(func, args, kwargs or {})
        self.total += macs
        return out

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        if not self._depth:
            self._entered = self.total
        self._depth += 1

    def _leave_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self.inside += self.total - self._entered


class _Form(NamedTuple):
    """All there is to a meta tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> _Form:
        return cls(x.shape, x.stride(), x.dtype)

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


_known: dict[Any, tuple[tuple[_Form, ...], int]] = {}
"""Outputs and multiply-adds of calls: torch works out a form in Python, which takes much longer than to look it up."""


def _call(func: Any, args: tuple, kwargs: dict) -> tuple[Any, int]:
    """Return the operator's output and its multiply-adds; both from memory if it was called alike before."""
    try:
        key = (func, _signature(args), _signature(kwargs.items())) if _makes_tensors(func) else None
        known = _known.get(key)
    except TypeError:  # tensors with content, or arguments without a hash
        key = known = None
    if known:
        made = tuple(form.empty() for form in known[0])
        return made if len(func._schema.returns) > 1 else made[0], known[1]
    out = func(*args, **kwargs)
    formula = flop_registry.get(func._overloadpacket)
    macs = formula(*args, **kwargs, out_val=out) // 2 if formula else 0
    tensors = out if isinstance(out, tuple) else (out,)
    if key and all(x.is_meta for x in tensors):
        _known[key] = tuple(map(_Form.of, tensors)), macs
    return out, macs


@functools.cache
def _makes_tensors(func: Any) -> bool:
    """Return True if all that the operator does is to return new tensors."""
    schema = func._schema
    made = [r.alias_info is None and isinstance(r.type, torch.TensorType) for r in schema.returns]
    return not schema.is_mutable and bool(made) and all(made)


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError("a tensor with content is more than its form")
        return _Form.of(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(map(_signature, value))
    return type(value), value


@contextlib.contextmanager
def _autocast_knows_meta() -> Iterator[None]:
    """Let `torch.autocast("meta")` pass, which losses in float32 call and torch refuses."""
    autocast: Any = torch.autocast

    class Autocast(autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any):
            super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    torch.autocast = Autocast  # type: ignore[misc]
    try:
        yield
    finally:
        torch.autocast = autocast  # type: ignore[misc]


def zeros(*shape: int) -> Tensor:
    """Return a tensor of that shape on the meta device."""
    return torch.zeros(shape, device="meta")
