"""Checkpoints: tensors and plain values only, whole or not at all, the last two of a run."""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from cakdbench.store import write_atomic

KEEP = 2
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` optimizer steps; the checkpoints before the last two go."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomic(folder / f"step-{step:09d}-{_digest(content)}.pt", content)
    for path in _newest_first(folder)[KEEP:]:
        path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that is whole, or None; and a sentence for each newer one that is damaged."""
    damage = []
    for path in _newest_first(folder):
        content = path.read_bytes()
        if _digest(content) == _NAME.fullmatch(path.name)[2]:
            try:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), damage
            except (RuntimeError, pickle.UnpicklingError) as error:
                damage.append(f"{path} cannot be loaded ({error}); going back to the one before")
        else:
            damage.append(f"{path} is damaged (its content is not what was written); going back to the one before")
    return None, damage


def checkpoint_step(folder: Path) -> int:
    """Optimizer steps made at the checkpoint `load_checkpoint` gives; 0 without one."""
    state, _ = load_checkpoint(folder)
    return state["step"] if state else 0


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
