"""Reading files that strangers wrote: bounded, links not followed, nothing in them executed.

Every function here either gives what the file holds or raises `Refused`, whatever the file is.
"""

import errno
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from decimal import Decimal, DecimalTuple, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from cakdbench.submissions.findings import Problem, Refused
from cakdbench.utils.text import is_device

JSON_BYTES = 2**20
CLASSES = 1_000_000
"""Predictions or labels in one file at most."""
NPY_BYTES = 2 * CLASSES + 128
FILES, TOTAL_BYTES = 20_000, 2**28
"""Files in a results folder, and their size together, at most."""
DEPTH, TEXT, DIGITS = 12, 2000, 18
"""Nesting of JSON, characters of a text, digits of a whole number, at most."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,198}[A-Za-z0-9_\-])?")
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '<u2', 'fortran_order': False, 'shape': \((\d{1,8}),\), \} {0,128}\n)",
    re.DOTALL,
)
T = TypeVar("T", bound=BaseModel)


def is_name(text: str) -> bool:
    """Return True for a file name that every system takes: plain, no dash or dot at its end, no device of Windows."""
    return _NAME.fullmatch(text) is not None and not is_device(text)


def read_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes."""
    try:
        _check_stat(os.lstat(path), limit)
        flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
        # The path may have become another file since `lstat`: what counts is the open one.
        with open(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:
            _check_stat(os.fstat(file.fileno()), limit)
            content = file.read(limit + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused("is a link", "put the file itself here") from error
        raise Refused(f"cannot be read ({error.strerror})", "submit a readable file") from error
    if len(content) > limit:
        raise _too_large(limit)
    return content


def _check_stat(status: os.stat_result, limit: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Refused("is a link", "put the file itself here")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("is no regular file", "put a file here, or nothing")
    if status.st_nlink > 1:
        raise Refused("is a hard link to a file that has other names", "put a copy of the file here")
    if status.st_size > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Refused:
    return Refused(f"is larger than {limit:,} bytes", "submit the file as `cakdbench submit` writes it")


def read_model(content: bytes, model: type[T]) -> T:
    """Return JSON as a pydantic model: strict, unknown fields are errors."""
    return fill_model(parse_json(content), model)


def fill_model(value: Any, model: type[T]) -> T:
    """Return a parsed JSON value as a pydantic model: strict, unknown fields are errors."""
    try:
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        what = f"does not fit the schema: {told[:400]}"
        raise Refused(what, "compare it with entry.schema.json, or submit the run anew") from error


def parse_json(content: bytes) -> Any:
    """Return a JSON value; duplicate keys, NaN, deep nesting, endless numbers and unprintable text are refused."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"is not UTF-8 (byte {error.start})", "write it in UTF-8") from error
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_unique
        )
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise Refused(f"is no JSON ({error})", "submit the whole file as it was written") from error
    check_values(value)
    return value


def _no_constant(name: str) -> None:
    raise Refused(f"holds {name}", "JSON has finite numbers only")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Refused("holds a number beyond all bounds", "JSON has finite numbers only")
    shortest = repr(value)
    # Writers differ in where they begin to use an exponent, and in nothing else.
    if text != shortest and (_digits(text) != _digits(shortest) or "e" in text.lower() and "e" not in shortest):
        raise Refused(f"writes the number {shortest} in another way", "submit the file as it was written")
    return value


def _digits(number: str) -> DecimalTuple | None:
    """Return sign, digits and exponent of a number; None for an exponent beyond all bounds."""
    try:
        return Decimal(number).as_tuple()
    except InvalidOperation:
        return None


def _int(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise Refused(f"holds a whole number of more than {DIGITS} digits", "submit the file as it was written")
    if text == "-0":
        raise Refused("writes the number 0 in another way", "submit the file as it was written")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Refused("has a key twice in one object", "give every key once")
    return values


def check_values(value: Any, depth: int = 1) -> None:
    """Refuse a parsed value that is nested deeply, or holds text that is unprintable or long."""
    if depth > DEPTH:
        raise _too_deep()
    if isinstance(value, str) and (len(value) > TEXT or not value.isprintable()):
        raise Refused(f"holds text that is unprintable or longer than {TEXT}", "leave it out")
    if isinstance(value, dict):
        for part in (*value, *value.values()):
            check_values(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            check_values(part, depth + 1)


def _too_deep() -> Refused:
    return Refused(f"is nested deeper than {DEPTH} levels", "submit the file as it was written")


def parse_classes(content: bytes) -> np.ndarray:
    """Return `(N,)` uint16 from a NumPy file of one-dimensional little-endian uint16, and of nothing else.

    The header is compared with the only form it may have, and never evaluated.
    """
    header = _HEADER.match(content)
    if header is None or int.from_bytes(header[1], "little") != len(header[2]):
        raise Refused("is no NumPy file of a row of uint16", "submit predictions.npy as the run wrote it")
    count, size = int(header[3]), len(content) - header.end()
    if size != 2 * count:
        raise Refused(f"says it holds {count} classes and has {size} bytes of them", "submit the whole file")
    return np.frombuffer(content, "<u2", count, header.end()).astype(np.uint16)


def read_classes(path: Path) -> np.ndarray:
    """Return `(N,)` uint16 of a file of predictions or labels."""
    return parse_classes(read_file(path, NPY_BYTES))


def scan(root: Path) -> Iterator[tuple[str, Problem | None]]:
    """Yield the files of a results folder, as `name` or `folder/name`, each with why it must not be there, if so.

    Raises:
        Refused: there are too many files, or they are too large together.
    """
    count, size = 0, 0
    folders = [item.name for item in _listing(root) if _is_folder(item) and is_name(item.name)]
    for inside in ("", *folders):
        for item in _listing(root / inside):
            count += 1
            size += min(item.stat(follow_symlinks=False).st_size, NPY_BYTES)
            if count > FILES or size > TOTAL_BYTES:
                raise Refused(f"holds more than {FILES:,} files or {TOTAL_BYTES:,} bytes", "submit less at once")
            if inside or item.name not in folders:
                yield (f"{inside}/" if inside else "") + _printable(item.name), _strange(item)


def _is_folder(item: os.DirEntry) -> bool:
    return item.is_dir(follow_symlinks=False)


def _listing(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as items:
            # More than `scan` refuses need not be listed.
            return sorted(itertools.islice(items, FILES + 1), key=lambda item: item.name)
    except OSError as error:
        raise Refused(f"{folder.name}: cannot be read ({error.strerror})", "name a readable folder") from error


def _printable(name: str) -> str:
    """Return a file name that can be printed."""
    return name if is_name(name) else ascii(name)[1:-1][:200]


def _strange(item: os.DirEntry) -> Problem | None:
    if not is_name(item.name):
        return Problem("has a name that is not allowed", "use letters, digits and '_', inside of it '-' and '.'")
    if item.is_symlink():
        return Problem("is a link", "put the file itself here")
    if _is_folder(item):
        return Problem("is a folder inside of a method's folder", "keep files only one folder deep")
    if not item.is_file(follow_symlinks=False):
        return Problem("is no regular file", "put a file here, or nothing")
    return None
