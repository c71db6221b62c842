"""Read checkpoints as people have them, without executing anything of them."""

from __future__ import annotations

import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cakdbench.utils.errors import WeightsError

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema")
"""Names of averaged weights. They come before the others, as with `use_ema` in timm's `load_state_dict`."""
WRAPPERS = (*AVERAGED, "state_dict", "model", "model_state_dict", "net", "network", "module", "weights", "params")
_PICKLES = 5
"""Pickles in a file of torch before 1.6: three of the format, the object, the names of its storages."""
_SCALAR, _ARRAY = np.float32(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
"""NumPy's functions that unpickle: in `numpy.core` before version 2, in `numpy._core` since."""
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that pickle calls by the names of Python 2."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        state: tensors by name, as the file has them.
        taken: the keys that lead to them in the file, `state_dict_ema` or `state_dict.model`; empty at the top.
    """

    state: dict[str, Tensor]
    taken: str = ""

    @property
    def averaged(self) -> bool:
        """Return True if these are weights averaged over training."""
        return any(name in AVERAGED for name in self.taken.split("."))


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the state dict of a weight file: safetensors, or whatever a trainer has saved around one.

    Objects of other programs (settings, paths, loggers) are passed over: nothing that the file names is imported or
    called.

    Raises:
        WeightsError: no file, damaged, or something else than weights; one line.
    """
    try:
        content = _loaded(path)
    except WeightsError:
        raise
    except Exception as error:  # whatever torch makes of bytes that are no checkpoint
        raise WeightsError(f"{path} {_fault(path, error)}") from error
    try:
        return unwrapped(content)
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    skipped = [(_Skipped, name) for name in _names(path) if name not in _KEPT]
    with torch.serialization.safe_globals([*((thing, name) for name, thing in _KEPT.items()), *skipped]):
        return torch.load(path, "cpu", weights_only=True)


class _Skipped:
    """Stand in for every class and function that a file names and that is not needed for its tensors."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()  # what torch's loader lets a pickle fill, whether as a dict or with attributes


class _Forgotten:
    """Stand in for what sets its own state, which is no dict."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _dict(*_: Any) -> OrderedDict[str, Any]:
    return OrderedDict()


def _list(items: Any = (), *_: Any) -> list[Any]:
    return list(items)


_KEPT: dict[str, Any] = {
    "collections.defaultdict": _dict,
    "collections.deque": _list,
    "functools.partial": _Forgotten,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    **{f"numpy.{core}.multiarray.scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _ARRAY for core in ("core", "_core")},
    **{f"numpy.dtypes.{name}": getattr(np.dtypes, name) for name in np.dtypes.__all__},
}
"""What is made of names besides torch's own: plain containers, and NumPy's arrays, which hold no code."""


def _names(path: Path) -> set[str]:
    """Return the names of all classes and functions in a file of `torch.save`."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return set(_globals(file, _PICKLES))
    with zipfile.ZipFile(path) as archive:
        inside = next((name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]), None)
        if inside is None:
            raise WeightsError(f"{path} is an archive that torch.save did not write: give a checkpoint's file")
        with archive.open(inside) as file:
            return set(_globals(file, 1))


def _globals(file: Any, pickles: int) -> Iterator[str]:
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                yield f"{_OLD_MODULES.get(module, module)}.{name}"


def _fault(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that could not be read."""
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    with open(path, "rb") as file:
        return _fault_of(file)


def _fault_of(file: BinaryIO) -> str:
    beginning = file.read(256)
    if not beginning:
        return "is empty: a download that went wrong?"
    try:
        words = beginning.decode("utf-8", "ignore" if len(beginning) == 256 else "strict")
    except UnicodeDecodeError:
        words = ""
    if words and "".join(words.split()).isprintable():
        return f"is text that begins {words.splitlines()[0][:40]!r}: a download that went wrong?"
    return "is damaged, or cannot be read without running code of it: load it where it was made and save its state_dict"


def unwrapped(content: Any, taken: str = "") -> Checkpoint:
    """Return the state dict inside of what a trainer has saved.

    Raises:
        WeightsError: there is none, or there are several; "holds ..." without the file's name.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__}, not a state dict: save the network's state_dict()")
    if _is_network(content):
        raise WeightsError("holds a whole network, whose code is not run: save its state_dict()")
    for name in WRAPPERS:
        inside = content.get(name)
        if isinstance(inside, Mapping) and (name not in AVERAGED or _holds_weights(inside)):
            return unwrapped(inside, f"{taken}.{name}".lstrip("."))
    if _is_state(content):
        return Checkpoint({name: torch.as_tensor(value) for name, value in content.items()}, taken)
    inner = [name for name, value in content.items() if isinstance(value, Mapping) and _is_state(value)]
    if len(inner) == 1:
        return unwrapped(content[inner[0]], f"{taken}.{inner[0]}".lstrip("."))
    raise WeightsError(f"holds {_described(content, inner)}: save the network's state_dict()")


def _holds_weights(content: Mapping[Any, Any]) -> bool:
    """Return False for what only tells how weights were averaged, and in lists."""
    try:
        return _is_network(content) or bool(unwrapped(content).state)
    except WeightsError:
        return False


def _is_network(content: Any) -> bool:
    """Return True for what `_Skipped` has made of an nn.Module."""
    return "_modules" in getattr(content, "__dict__", {})


def _is_state(content: Mapping[Any, Any]) -> bool:
    values = content.values()
    return bool(content) and all(isinstance(k, str) for k in content) and all(map(_is_tensor, values))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _described(content: Mapping[Any, Any], inner: list[Any]) -> str:
    if inner:
        return f"several networks ({', '.join(map(str, inner))})"
    names = ", ".join(map(str, list(content)[:5]))
    return f"no state dict (its keys are {names})" if content else "nothing"
