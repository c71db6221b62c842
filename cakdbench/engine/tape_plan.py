"""How much the tapes of a plan will take, before any is recorded."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cakdbench.data.datasets import dataset_facts
from cakdbench.engine.harness import Harness
from cakdbench.engine.tapes import stream_numbers
from cakdbench.grid.plan import Cell, pair_info
from cakdbench.train.tape import Part
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.sizes import size_text

NUMBER = 4
"""Bytes of a number on tape, at most: in bf16 some take two."""


@dataclass(frozen=True)
class TapePlan:
    """What a plan still has to record, in bytes by part, at most; on `tapes` tapes, one a teacher, stream and seed."""

    tapes: int
    bytes: dict[Part, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __str__(self) -> str:
        if not self.total:
            return "nothing left to record"
        parts = ", ".join(f"{part} {size_text(size)}" for part, size in self.bytes.items())
        return f"up to {size_text(self.total)} on {self.tapes} tape{'s' * (self.tapes > 1)} ({parts})"

    def require_room(self, root: Path) -> None:
        """Raise UsageError if the disk of the store `root` has not the room."""
        place = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        if self.total > free:
            less = f"--tape-logits records {size_text(self.bytes.get('logits', 0))}"
            raise UsageError(
                f"no room for tapes: they take {self}, and the disk of {root} has {size_text(free)} left; "
                f"free some ({less}), or run without --tape"
            )


def plan_tapes(harness: Harness, cells: Iterable[Cell]) -> TapePlan:
    """Return what the cells, which are not done, have to record."""
    longest: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        if cell.method.needs - {"model"} and len(cell.pair.teachers) == 1:
            stream = json.dumps(stream_numbers(cell.recipe), sort_keys=True)
            key = cell.pair.teacher, cell.pair.dataset, stream, cell.seed, cell.precision
            longest[key] = max(longest.get(key, cell), cell, key=lambda cell: cell.recipe.epochs)
    left = [_left(harness, cell) for cell in longest.values()]
    sums = {part: sum(size[part] for size in left) for part in harness.runtime.options.tape}
    return TapePlan(sum(any(size.values()) for size in left), sums)


def _left(harness: Harness, cell: Cell) -> dict[Part, int]:
    """Return the bytes of a tape that are not recorded yet."""
    recipe, pair = cell.recipe, cell.pair
    facts = dataset_facts(pair.dataset, harness.runtime.options.data_dir, harness.runtime.options.download)
    images = facts.n_train // recipe.global_batch * recipe.global_batch
    width = pair_info(pair, recipe.image_size, recipe.split, harness.runtime.options.data_dir)[0].width
    widths: dict[Part, int] = {"logits": facts.num_classes, "pooled": width}
    try:
        recorded = harness.tape(cell)
    except CakdError:  # its teacher or its data are not there yet
        recorded = None
    sizes: dict[Part, int] = {}
    for part in harness.runtime.options.tape:
        done = len([epoch for epoch in recorded.files(part) if epoch < recipe.epochs]) if recorded else 0
        sizes[part] = (recipe.epochs - done) * images * widths[part] * NUMBER
    return sizes
