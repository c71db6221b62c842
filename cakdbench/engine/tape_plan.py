"""How much the tapes of a plan will take, before any is recorded."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cakdbench.data.datasets import dataset_facts
from cakdbench.engine.harness import Harness
from cakdbench.engine.tapes import needs_of, stream_numbers
from cakdbench.grid.plan import Cell, pair_info
from cakdbench.train.tape import PARTS, Part
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.sizes import size_text

NUMBER = 4
"""Bytes of a number on tape, at most: in bf16 some take two."""


@dataclass(frozen=True)
class TapePlan:
    """What a plan still has to record, in bytes by part, at most; on `tapes` tapes, one a teacher, stream and seed.

    Attributes:
        live: several teachers at once, of whom there is no tape.
    """

    tapes: int
    bytes: dict[Part, int]
    live: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __str__(self) -> str:
        asked = f"; asked live, as several teachers at once are: {', '.join(self.live)}" if self.live else ""
        if not self.total:
            return f"nothing left to record{asked}"
        parts = ", ".join(f"{part} {size_text(size)}" for part, size in self.bytes.items())
        return f"up to {size_text(self.total)} on {self.tapes} tape{'s' * (self.tapes > 1)} ({parts}){asked}"

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
    taught = [cell for cell in cells if cell.method.needs - {"model"}]
    for cell in taught:
        if len(cell.pair.teachers) == 1:
            key = _tape_key(cell)
            longest[key] = max(longest.get(key, cell), cell, key=lambda cell: cell.recipe.epochs)
    left = [_left(harness, cell) for cell in longest.values()]
    sums = {part: sum(size[part] for size in left) for part in harness.runtime.options.tape}
    live = dict.fromkeys(cell.pair.teacher for cell in taught if len(cell.pair.teachers) > 1)
    return TapePlan(sum(any(size.values()) for size in left), sums, tuple(live))


class TapedEpochs:
    """Says how many epochs of a teacher's pass come from tape, for one group of cells after the other.

    What a group records is there for the groups after it.
    """

    def __init__(self, harness: Harness):
        self.harness = harness
        self._recorded: dict[tuple[object, ...], dict[Part, set[int]]] = {}

    def __call__(self, cells: Sequence[Cell]) -> int:
        """Return the number for cells that share a pass."""
        taught = [cell for cell in cells if cell.method.needs - {"model"}]
        if not taught or len(taught[0].pair.teachers) > 1:
            return 0
        first, options = taught[0], self.harness.runtime.options
        key, every = _tape_key(first), set(range(first.recipe.epochs))
        recorded = self._recorded.get(key) or _recorded(self.harness, first)
        classes = dataset_facts(first.pair.dataset, options.data_dir, options.download).num_classes
        needs = frozenset().union(*(needs_of(cell, classes) for cell in taught)) - {"model"}
        replayed = set.intersection(every, *(recorded[part] for part in PARTS if part in needs))
        self._recorded[key] = {part: recorded[part] | (every if part in options.tape else set()) for part in PARTS}
        return len(replayed) if needs <= {*options.tape} else 0


def _tape_key(cell: Cell) -> tuple[object, ...]:
    """Return what is equal for cells whose teachers say the same."""
    stream = json.dumps(stream_numbers(cell.recipe), sort_keys=True)
    return cell.pair.teacher, cell.pair.dataset, stream, cell.seed, cell.precision


def _recorded(harness: Harness, cell: Cell) -> dict[Part, set[int]]:
    """Return the epochs that are on a cell's tape, by part."""
    try:
        tapes = harness.tapes(harness.ground(cell) or cell)
    except CakdError:  # its teacher or its data are not there yet
        tapes = []
    return {part: max((set(tape.files(part)) for tape in tapes), key=len, default=set()) for part in PARTS}


def _left(harness: Harness, cell: Cell) -> dict[Part, int]:
    """Return the bytes of a tape that are not recorded yet."""
    recipe, pair = cell.recipe, cell.pair
    facts = dataset_facts(pair.dataset, harness.runtime.options.data_dir, harness.runtime.options.download)
    images = facts.n_train // recipe.global_batch * recipe.global_batch
    width = pair_info(pair, recipe.image_size, recipe.split, harness.runtime.options.data_dir)[0].width
    widths: dict[Part, int] = {"logits": facts.num_classes, "pooled": width}
    recorded = _recorded(harness, cell)
    sizes: dict[Part, int] = {}
    for part in harness.runtime.options.tape:
        left = set(range(recipe.epochs)) - recorded[part]
        sizes[part] = len(left) * images * widths[part] * NUMBER
    return sizes
