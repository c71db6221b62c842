"""Checkpoints: tensors and plain values only, whole or not at all, the last two of a run."""

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from cakdbench.store import checkpoint_files
from cakdbench.store.files import reason, remove, replace_file
from cakdbench.utils.errors import StoreError

FORMAT = 3
"""Of the states: raise it when `Lane.state` changes. A state of another format is set aside; its run begins anew."""
KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], run: str) -> None:
    """Write the state of a run after `step` optimizer steps; the checkpoints before the last two go.

    Args:
        folder: in the run's folder, which has to be there.
        run: its key.

    Raises:
        StoreError: the disk is full, or has gone away.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "run": run, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:09d}-{_digest(content)}.pt"
    with contextlib.suppress(OSError):  # the file will say why
        folder.mkdir(exist_ok=True)
    replace_file(path, content)
    with contextlib.suppress(StoreError):
        _remove_older(path)


def _remove_older(newest: Path) -> None:
    older = [path for path in checkpoint_files(newest.parent) if path.name < newest.name]
    for path in older[KEEP - 1 :]:
        remove(path)


def load_checkpoint(folder: Path, run: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest state of a run that can be used, or None, and a sentence for each newer one that cannot.

    Those are renamed to `*.damaged`, so that `store.checkpoint_step`, which goes by names, counts them no more.

    Raises:
        StoreError: the folder cannot be read.
    """
    problems: list[str] = []
    for path in checkpoint_files(folder):
        state, problem = read_checkpoint(path, run)
        if state is not None:
            return state, problems
        problems.append(f"{path} {problem}; going back to the one before, or to the start")
        set_aside(path)
    return None, problems


def set_aside(path: Path) -> None:
    """Rename a checkpoint that cannot be used; where that is not possible, it is passed over each time."""
    with contextlib.suppress(OSError):  # as where another process of the run has done it
        path.rename(path.with_suffix(".pt.damaged"))


def read_checkpoint(path: Path, run: str) -> tuple[dict[str, Any] | None, str]:
    """Return a checkpoint's state, or None and what is wrong with it, as that it is not of this run."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, f"cannot be read ({reason(error)})"
    if _digest(content) != path.stem.rpartition("-")[2]:
        return None, "is damaged (its content is not what was written)"
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes that are no checkpoint
        return None, f"cannot be loaded ({type(error).__name__})"
    if not isinstance(state, dict):
        return None, "holds no state"
    form, owner = state.pop("format", 1), state.pop("run", None)
    if form != FORMAT:
        return None, f"is of format {form}, and this cakdbench reads format {FORMAT}"
    return (state, "") if owner == run else (None, f"is of the run {owner}, and was laid here")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
