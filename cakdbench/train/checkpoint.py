"""Checkpoints: tensors and plain values only, whole or not at all, the last two of a run."""

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from cakdbench.store import checkpoint_files, write_atomic

FORMAT = 2
"""Of the states: raise it when `Lane.state` changes. A state of another format is set aside; its run begins anew."""
KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` optimizer steps; the checkpoints before the last two go."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    write_atomic(folder / f"step-{step:09d}-{_digest(content)}.pt", content)
    for path in checkpoint_files(folder)[KEEP:]:
        path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest state that can be used, or None, and a sentence for each newer one that cannot.

    Those are renamed to `*.damaged`, so that `store.checkpoint_step`, which goes by names, counts them no more.
    """
    problems: list[str] = []
    for path in checkpoint_files(folder):
        state, problem = _read(path)
        if state is not None:
            return state, problems
        problems.append(f"{path} {problem}; going back to the one before, or to the start")
        set_aside(path)
    return None, problems


def set_aside(path: Path) -> None:
    """Rename a checkpoint that cannot be used."""
    with contextlib.suppress(FileNotFoundError):  # another process of the run has done it
        path.rename(path.with_suffix(".pt.damaged"))


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return a checkpoint's state, or None and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if _digest(content) != path.stem.rpartition("-")[2]:
        return None, "is damaged (its content is not what was written)"
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes that are no checkpoint
        return None, f"cannot be loaded ({type(error).__name__})"
    if not isinstance(state, dict):
        return None, "holds no state"
    form = state.pop("format", 1)
    return (state, "") if form == FORMAT else (None, f"is of format {form}, and this cakdbench reads format {FORMAT}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
