"""Faults planted into real code: into every function of a module, at its beginning."""

import ast
import contextlib
import inspect
import sys
from pathlib import Path
from types import CodeType

import torch

from cakdbench.checks.device import HOST
from cakdbench.checks.gpu_rules import DEVICE

FAULTS = {
    "copies a tensor of the device to the CPU": "{p}.x.cpu()",
    "reads a tensor of the device (item)": "{p}.x.sum().item()",
    "makes a tensor on the CPU": "{p}.torch.zeros(3)",
    "meets one (2,) of the device in add": "{p}.x + {p}.host",
    "indexes by a mask": "{p}.x[{p}.x > 0]",
}
"""Words of the finding, and the code that is planted."""


class Planted:
    """What planted code finds under the name `__planted__`.

    Attributes:
        ran: where planted code ran as part of a step, as (file, line).
    """

    def __init__(self):
        self.torch, self.x, self.host = torch, torch.ones(2, device=DEVICE), torch.ones(2)
        self.ran: set[tuple[str, int]] = set()
        self._host: set[CodeType] = set()

    def mark(self) -> bool:
        """Note the caller's place; return whether it runs as part of a step."""
        frame, codes = sys._getframe(1), set()
        place = frame.f_code.co_filename, frame.f_lineno
        while frame:
            codes.add(frame.f_code)
            frame = frame.f_back
        in_step = torch._C._len_torch_dispatch_stack() > 0 and codes.isdisjoint(self._host)
        if in_step:
            self.ran.add(place)
        return in_step


@contextlib.contextmanager
def planted_into(*modules):
    """Give all functions of modules code that first breaks every rule, and their own back at the end."""
    kept, planted = [], Planted()
    for module in modules:
        codes = {code.co_qualname: code for code in _all_codes(_compiled(module))}
        for function in _functions(module):
            kept.append((function, function.__code__))
            function.__code__ = codes[function.__qualname__]
        module.__planted__ = planted
    planted._host = {inspect.unwrap(function).__code__ for function in HOST}  # some have just changed
    try:
        yield planted
    finally:
        for function, code in reversed(kept):
            function.__code__ = code
        for module in modules:
            del module.__planted__


def _compiled(module) -> CodeType:
    path = Path(module.__file__)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            _plant(node)
    return compile(tree, str(path), "exec")


def _plant(function: ast.FunctionDef) -> None:
    documented = ast.get_docstring(function) is not None
    line = function.body[min(documented, len(function.body) - 1)].lineno
    faults = "".join(f"\n    {code.format(p='__planted__')}" for code in FAULTS.values())
    added = ast.parse(f"if __planted__.mark():{faults}").body
    for node in (node for statement in added for node in ast.walk(statement) if hasattr(node, "lineno")):
        node.lineno = node.end_lineno = line
    function.body[documented:documented] = added


def _all_codes(code: CodeType):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_codes(constant)


def _functions(module):
    """Yield the functions of a module and of its classes, without their decorators."""
    owners = [module, *(value for value in vars(module).values() if inspect.isclass(value))]
    for owner in owners:
        for value in vars(owner).values():
            function = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
            function = inspect.unwrap(function) if callable(function) else None
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                if function.__code__.co_filename == module.__file__:  # not one that a dataclass makes
                    yield function
