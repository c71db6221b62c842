"""What a list of runs shows of a finished one, and the stamp by which its files are known again."""

import os
from dataclasses import dataclass
from pathlib import Path

from cakdbench.records import Record
from cakdbench.store.files import SUMS

WEIGHTS = ("student.safetensors", "student_ema.safetensors", "modules.safetensors")
WHOLE = ("record.json", "identity.json", "predictions.npy", *WEIGHTS, SUMS)
"""The files that decide whether a run is whole."""
Stamp = tuple[tuple[int, int], ...]
"""Size and date of each of `WHOLE`. Dates are compared with themselves alone, so no clock has to be right."""


@dataclass(frozen=True)
class Summary:
    """A finished run in a line; `top1` in percent."""

    label: str
    pair: str
    recipe: str
    seed: int
    epochs: int
    top1: float

    @classmethod
    def of(cls, record: Record) -> "Summary":
        identity = record.identity
        epochs = int(identity.recipe.get("epochs", 0))
        return cls(record.label, identity.pair, record.recipe_name, identity.seed, epochs, record.result.top1)


def take_stamp(folder: Path) -> Stamp:
    """Return the stamp of a run's files; a missing one has size -1.

    Raises:
        OSError: the disk does not say.
    """
    return tuple(_stat(os.path.join(folder, name)) for name in WHOLE)


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return -1, 0
    return found.st_size, found.st_mtime_ns
