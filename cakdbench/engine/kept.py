"""Answers that are kept in the user's cache from one command to the next, for as long as the code is the same."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch

import cakdbench
from cakdbench.store import write_atomic
from cakdbench.utils.errors import StoreError
from cakdbench.utils.places import cache_path


def kept(folder: str, question: Iterable[object], answer: Callable[[], Any]) -> Any:
    """Return the answer to a question, as it was kept or else computed now and kept where that is possible.

    Args:
        folder: of the user's cache.
        question: all that decides the answer, by `str`, besides the code of cakdbench and the versions of torch, timm.
        answer: computes it; something that JSON has.
    """
    text = json.dumps([*map(str, question), code_sha256(), torch.__version__, timm.__version__])
    path = cache_path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_bytes())
    computed = answer()
    with contextlib.suppress(StoreError):
        write_atomic(path, json.dumps(computed).encode())
    return computed


@functools.cache
def code_sha256() -> str:
    """Return the hash of all of cakdbench's code."""
    digest = hashlib.sha256()
    root = Path(cakdbench.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
