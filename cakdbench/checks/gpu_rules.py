"""A GPU's rules, on machines without one: tensors of two devices do not meet, and a step does not wait for its device.

The device is torch's meta device, whose tensors have shapes and no content: it is part of every torch on every system.
What a GPU refuses, or has to wait for, meta tensors partly allow; so the rules stand here, and every operator that
torch runs, forward, backward and in optimizers, is held to them.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import accelerate
import timm
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from cakdbench.utils.meta import call, meta_as_device

DEVICE = torch.device("meta")

MEETS = "make it on the device (device=x.device), or register it as a buffer in build()"
WAITS = "keep it a tensor: torch.where instead of `if`; the engine reads the losses, every some steps, for all lanes"
MASK = "keep the shape: multiply by the mask, or use torch.where or masked_fill"
UPLOAD = "make it on the device (torch.full, torch.arange, ...), or register it as a buffer in build()"

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
DEPENDS_ON_CONTENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
PRINTED = {Tensor.__repr__, Tensor.__format__}
NUMPY: set[Any] = {Tensor.numpy, Tensor.__array__}
UPLOADED = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


@dataclass(frozen=True)
class DeviceFault:
    """What a GPU would refuse or wait for, where, and what to do about it."""

    what: str
    hint: str
    file: str
    line: int

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.what} ({Path(self.file).name}, line {self.line}: {source})"


class GpuRules(TorchDispatchMode):
    """Hold what torch computes while active to a GPU's rules; what breaks them is noted, and goes on with zeros.

    A tensor on the CPU that a step makes is a fault even if a GPU would take it, as it does numbers `()`: it is made
    anew at every step. Random draws are none: what is drawn on the CPU decides which way a step goes without a wait.

    Args:
        host: functions within which code may wait for the device and work on the CPU; the two still must not meet.

    Attributes:
        faults: each once, in the order of their first time.
        reads: how often code within `host` has waited for the device.
        fills: True while a number of Python is written by a mask, which is no wait.
    """

    def __init__(self, host: Iterable[Callable] = ()):
        super().__init__()
        self.faults: list[DeviceFault] = []
        self.reads = 0
        self.fills = False
        self._host = {inspect.unwrap(function).__code__ for function in host}
        self._around = contextlib.ExitStack()

    def __enter__(self) -> GpuRules:
        self._around.enter_context(meta_as_device())
        self._around.enter_context(_Unseen(self))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._around.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((*args, *kwargs.values())))
        on_cpu = [x for x in given if not x.is_meta]
        if len(on_cpu) == len(given):
            return self._on_cpu(func, args, kwargs, given)
        if func in COPIES:
            broken = _copy_fault(func, args, kwargs)
        else:
            broken = None if self.fills else _content_fault(func, args)
        if broken:
            self.note(*broken)
        elif on_cpu and func not in COPIES:
            self.note(_meeting(func, given), MEETS, everywhere=any(x.ndim for x in on_cpu))
        else:
            return _on_device(func, args, kwargs)
        return _on_zeros(func, args, kwargs)

    def _on_cpu(self, func: Any, args: tuple, kwargs: dict, given: list[Tensor]) -> Any:
        """Run an operator on tensors of the CPU, or one that makes a tensor."""
        if func in COPIES and (broken := _copy_fault(func, args, kwargs)):
            self.note(*broken)
        made = func(*args, **kwargs)
        new = not given or func is aten.lift_fresh.default
        if new and isinstance(made, Tensor) and not made.is_meta and not _drawn(func):
            self.note("makes a tensor on the CPU", MEETS, made=True)
        return made

    def note(self, what: str, hint: str, made: bool = False, everywhere: bool = False) -> None:
        """Note a fault of the code that runs, unless it is within `host`.

        Args:
            made: it is none within an optimizer either.
            everywhere: it is one within `host` too.
        """
        place = None
        for frame in _frames():
            if frame.f_code in self._host and not everywhere:
                self.reads += hint is WAITS
                return
            if made and frame.f_code.co_filename.startswith(OPTIMIZERS):  # they count steps on the CPU
                return
            if place is None and not frame.f_code.co_filename.startswith(LIBRARIES):
                place = frame.f_code.co_filename, frame.f_lineno
        fault = DeviceFault(what, hint, *(place or ("?", 0)))
        if fault not in self.faults:
            self.faults.append(fault)


class _Unseen(TorchFunctionMode):
    """Sees what reaches the device without an operator: printing, NumPy, and tensors made there of Python's numbers."""

    def __init__(self, rules: GpuRules):
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in PRINTED and args[0].is_meta:
            self.rules.note("prints a tensor of the device, and waits for it", WAITS)
            args = (torch.zeros(args[0].shape, dtype=args[0].dtype), *args[1:])
        elif func in NUMPY and args[0].is_meta:
            args = (args[0].cpu(), *args[1:])
        self.rules.fills = func is Tensor.__setitem__ and not isinstance(args[2], Tensor)
        made = func(*args, **kwargs)
        self.rules.fills = False
        if func in UPLOADED and made.is_meta and not any(_tensors(args[-1:])):
            self.rules.note("copies numbers of the CPU to the device, and waits for it", UPLOAD)
        return made


def _folder(module: Any) -> str:
    return os.path.dirname(module.__file__) + os.sep


LIBRARIES = (_folder(torch), _folder(timm), _folder(accelerate), __file__, contextlib.__file__)
OPTIMIZERS = (_folder(torch.optim), _folder(timm) + "optim")


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame:
        yield frame
        frame = frame.f_back


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _drawn(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _copy_fault(func: Any, args: tuple, kwargs: dict) -> tuple[str, str] | None:
    """Return what is wrong with a copy to another device: every way but `non_blocking` to the device is a wait."""
    if func is aten.copy_.default:
        target, source, at_once = args[0].device, args[1], args[2] if len(args) > 2 else kwargs.get("non_blocking")
    else:
        target, source, at_once = kwargs.get("device") or args[0].device, args[0], kwargs.get("non_blocking")
    if source.device == target:
        return None
    if source.is_meta:
        return "copies a tensor of the device to the CPU, and waits for it", WAITS
    return None if at_once else ("copies a tensor of the CPU to the device, and waits for it", UPLOAD)


def _content_fault(func: Any, args: tuple) -> tuple[str, str] | None:
    """Return what is wrong with an operator that must know the content of its tensors before it returns."""
    name = func._schema.name.removeprefix("aten::")
    if func in BY_INDEX:
        masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
        return ("indexes by a mask, and waits for its content", MASK) if masks else None
    if func is aten._linalg_check_errors.default:
        return "checks a result of torch.linalg, and waits for it", "use the form that does not: torch.linalg.inv_ex"
    if not DEPENDS_ON_CONTENT.isdisjoint(func.tags):
        name = {"_local_scalar_dense": "item"}.get(name, name)
        return f"reads a tensor of the device ({name}), and waits for it", WAITS
    return None


def _meeting(func: Any, given: list[Tensor]) -> str:
    """Return the fault of an operator that gets tensors of two devices."""
    here, there = (next(tuple(x.shape) for x in given if x.is_meta is meta) for meta in (False, True))
    name = func._schema.name.removeprefix("aten::").strip("_")
    return f"a tensor {here} of the CPU meets one {there} of the device in {name}"


def _on_device(func: Any, args: tuple, kwargs: dict) -> Any:
    try:
        return call(func, args, kwargs)
    except NotImplementedError:  # torch cannot tell its form without content
        return _on_zeros(func, args, kwargs)


def _on_zeros(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operator as if all tensors of the device were zeros; what it gives is on the device, but for copies."""

    def zeros(x: Any) -> Any:
        return torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, Tensor) and x.is_meta else x

    def back(x: Any) -> Any:
        return x.to(DEVICE) if isinstance(x, Tensor) else x

    made = func(*tree_map(zeros, args), **tree_map(zeros, kwargs))
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    return made if func in COPIES else tree_map(back, made)
