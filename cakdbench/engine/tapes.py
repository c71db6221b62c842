"""Tapes of teachers: which one a group's is, how large tapes are, what lies in the store."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import timm
import torch
import torchvision

from cakdbench.build import build_method
from cakdbench.data.datasets import ImageDataset
from cakdbench.grid.plan import Cell
from cakdbench.models.ensemble import join
from cakdbench.models.staged import meta_model
from cakdbench.recipes import Recipe, identity_of
from cakdbench.records import ENGINE_VERSION, TeacherIdentity
from cakdbench.store import Store, one_key
from cakdbench.train.runtime import Runtime
from cakdbench.train.tape import PARTS, Part, Tape
from cakdbench.utils.device import device_name
from cakdbench.utils.errors import RAISED, UsageError
from cakdbench.utils.meta import ContentFree

FOLDER = "tapes"
"""In the store."""
UNSEEN = (
    *("epochs", "init", "init_head", "optimizer", "schedule", "label_smoothing", "drop_path", "clip_grad"),
    *("ema_decay", "teacher_norm", "evaluation"),
)
"""Numbers of a recipe that do not reach the teacher; how its images are normalised stands in its identity."""


def stream_numbers(recipe: Recipe) -> dict[str, Any]:
    """Return the numbers of a recipe that decide what images a teacher sees."""
    return {name: value for name, value in identity_of(recipe.numbers()).items() if name not in UNSEEN}


def tape_identity(cell: Cell, dataset: ImageDataset, teacher: TeacherIdentity, runtime: Runtime) -> dict[str, Any]:
    """Return everything that can change a bit of what the teacher says, as JSON values."""
    device = runtime.accelerator.device
    on_cpu = {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    return {
        "engine_version": ENGINE_VERSION,
        "teacher": teacher.model_dump(mode="json", exclude_none=True),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint, "skipped": dataset.skipped},
        "recipe": stream_numbers(cell.recipe),
        "seed": cell.seed,
        "precision": cell.precision,
        "device": {"name": device_name(device)} | (on_cpu if device.type == "cpu" else {}),
        "versions": {module.__name__: module.__version__ for module in (torch, torchvision, timm, PIL)},
    }


def find_tape(
    store: Store, cell: Cell, dataset: ImageDataset, teacher: TeacherIdentity, width: int, runtime: Runtime
) -> Tape:
    """Return the tape of a cell's teacher, which may be empty.

    Args:
        width: of the teacher's pooled feature; 0 if it gives none.
    """
    about = json.dumps(tape_identity(cell, dataset, teacher, runtime), sort_keys=True, indent=1).encode()
    name = re.sub(r"[^\w.]+", "-", f"{teacher.model}-{dataset.name}-s{cell.seed}")
    folder = store.root / FOLDER / f"{name}-{hashlib.sha256(about).hexdigest()[:16]}"
    recipe = cell.recipe
    rows = len(dataset.train) // recipe.global_batch * (recipe.global_batch // recipe.local_batch)
    parts = tuple(part for part in runtime.options.tape if part != "pooled" or width)
    return Tape(folder, rows, parts, about)


def tapes_of_any_device(
    store: Store, cell: Cell, dataset: ImageDataset, teacher: TeacherIdentity, runtime: Runtime
) -> Iterator[Tape]:
    """Yield the tapes of a cell's teacher, whatever device and packages recorded them."""
    own = json.loads(json.dumps(tape_identity(cell, dataset, teacher, runtime)))
    for folder in (store.root / FOLDER).glob("*"):
        about = _about(folder)
        if all(name in ("device", "versions") or about.get(name) == value for name, value in own.items()):
            yield Tape(folder)


def needs_of(cell: Cell, classes: int) -> frozenset[str]:
    """Return what a cell's method needs with its settings; the most it may need if it cannot be built without content.

    A method may need less than its class says, once it is built.
    """
    if cell.method.needs <= {"model", *PARTS}:
        return cell.method.needs
    size, split = cell.recipe.image_size, cell.recipe.split
    try:
        with ContentFree():
            student = meta_model(cell.pair.student, classes, size, split)
            teacher = join(meta_model(name, classes, size, split) for name in cell.pair.teacher_models)
            labels = torch.arange(2 * classes) % classes
            with torch.device("meta"):
                return build_method(cell.method, student, teacher, cell.config, labels=labels).needs
    except RAISED:  # a method may look into tensors, or raise anything: its run says so
        return cell.method.needs


@dataclass(frozen=True)
class StoredTape:
    """A tape as it lies in a store; `epochs`: how many are recorded, of any part."""

    name: str
    about: dict[str, Any]
    parts: tuple[Part, ...]
    epochs: int
    size: int


def stored_tapes(root: Path) -> Iterator[StoredTape]:
    """Yield the tapes of a store by name."""
    for folder in sorted(path for path in (root / FOLDER).glob("*") if path.is_dir()):
        tape = Tape(folder)
        files = {part: tape.files(part) for part in PARTS}
        yield StoredTape(
            name=folder.name,
            about=_about(folder),
            parts=tuple(part for part in PARTS if files[part]),
            epochs=len({epoch for part in PARTS for epoch in files[part]}),
            size=sum(path.stat().st_size for path in folder.iterdir()),
        )


def _about(folder: Path) -> dict[str, Any]:
    """Return what a tape is of; empty if its description is not whole."""
    try:
        about = json.loads((folder / "tape.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def drop_tape(root: Path, name: str) -> int:
    """Remove a tape, named by itself or the start of its name, while no process records it; return its bytes.

    Raises:
        UsageError: there is none of this name, there are several, or it is being recorded.
    """
    names = [tape.name for tape in stored_tapes(root)]
    key = one_key(name, names, what="tape")
    tape = Tape(root / FOLDER / key)
    if not tape.acquire():
        raise UsageError(f"{key} is being recorded by another process: wait for it, or stop it")
    size = sum(path.stat().st_size for path in tape.folder.iterdir())
    tape.release()
    shutil.rmtree(tape.folder)
    return size
