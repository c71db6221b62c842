"""Tensors on torch's meta device: they have shapes and no content."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

VALUES = {torch.ops.aten._local_scalar_dense.default: 0, torch.ops.aten.equal.default: True}
"""Answers to questions about the content of tensors that have none."""


class ContentFree(TorchDispatchMode):
    """Answer, while active, questions about the content of meta tensors as if all tensors were zeros."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in VALUES and args[0].is_meta:
            return VALUES[func]
        return func(*args, **(kwargs or {}))


def has_content(module: nn.Module) -> bool:
    """Return True if the weights of `module` are numbers, and False if it only has shapes."""
    return not any(tensor.is_meta for tensor in module.state_dict().values())


@contextlib.contextmanager
def meta_as_device() -> Iterator[None]:
    """Let `torch.autocast` and `torch.Generator`, which torch has for no meta device, take it for the CPU."""
    autocast: Any = torch.autocast
    generator: Any = torch.Generator

    class Autocast(autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any):
            super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    class Generator(generator):
        def __new__(cls, device: Any = "cpu") -> Any:
            return super().__new__(cls, "cpu" if torch.device(device).type == "meta" else device)

    torch.autocast, torch.Generator = Autocast, Generator  # type: ignore[misc]
    try:
        yield
    finally:
        torch.autocast, torch.Generator = autocast, generator  # type: ignore[misc]


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


_known: dict[Any, tuple[_Form | None, ...]] = {}
"""Outputs of calls: torch works out a form in Python, which takes much longer than to look it up."""


def call(func: Any, args: tuple, kwargs: dict) -> Any:
    """Return the operator's output; of meta tensors from memory if it was called alike before."""
    try:
        key = (func, _signature(args), _signature(kwargs.items())) if _makes_tensors(func) else None
        known = _known.get(key)
    except TypeError:  # tensors with content, or arguments without a hash
        key = known = None
    if known:
        made = tuple(form and form.empty() for form in known)
        return made if len(func._schema.returns) > 1 else made[0]
    out = func(*args, **kwargs)
    tensors = out if isinstance(out, tuple) else (out,)
    if key and all(x is None or x.is_meta for x in tensors):  # a backward pass leaves out what nobody asks for
        _known[key] = tuple(x if x is None else _Form.of(x) for x in tensors)
    return out


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
