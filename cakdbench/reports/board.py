"""What a board says: the scores of its cells, and what stands beside them. `placing` makes it of records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Protocol

from cakdbench.grid.plan import ALWAYS
from cakdbench.published.compare import Printed
from cakdbench.records import Record
from cakdbench.results.ranking import SEEDS, Standings
from cakdbench.results.uncertainty import indistinguishable, standard_error
from cakdbench.submissions.entry import ExternalEntry

SCRATCH, *_ = BASELINES = ALWAYS
"""Rows of every board, in this order, measured or not."""
TEACHER = "teacher"
"""What printed accuracies of the teacher itself go by."""


@dataclass(frozen=True)
class Column:
    """A pair under its recipe.

    Attributes:
        numbers: everything of the recipe that can change a result.
        protocol: that of the printed numbers shown beside the measured ones, if there are any.
    """

    teacher: str
    student: str
    dataset: str
    recipe: str
    numbers: Mapping[str, Any] = field(compare=False)
    test_images: int
    protocol: str | None = None

    @property
    def pair(self) -> str:
        return f"{self.teacher}>{self.student}@{self.dataset}"

    def concerns(self, record: Record) -> bool:
        """Whether a record is of this pair, under whatever settings."""
        identity = record.identity
        teacher_fits = identity.teacher is None or identity.teacher.model == self.teacher
        return teacher_fits and (identity.student, identity.dataset.name) == (self.student, self.dataset)


class Rules(Protocol):
    """What a board has to be told about methods and settings."""

    def label(self, record: Record, column: Column) -> str:
        """Return the row a record belongs to; UsageError where that cannot be told."""

    def differences(self, record: Record, column: Column) -> list[str]:
        """What keeps the record from being a standard run of the column; empty if nothing does."""

    def refusal(self, label: str, column: Column) -> str | None:
        """Why a method cannot run on a pair."""

    def title(self, label: str) -> str:
        """A method's name for readers."""

    def installed(self, label: str) -> bool:
        """Whether there is such a method here."""

    def printed(self, column: Column) -> Mapping[str, tuple[Printed, ...]]:
        """The printed accuracies of a pair by method; `teacher` and `scratch` are the models alone."""


@dataclass(frozen=True)
class Score:
    """One cell: the records of a method on a pair, a seed each, and the scratch records beside them.

    Accuracies and gains in percent, of the last epoch. `printed` are the values of papers.
    """

    records: tuple[Record, ...]
    scratch: tuple[Record, ...] = ()
    refusal: str | None = None
    printed: tuple[Printed, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.identity.seed for record in self.records)

    def mean_of(self, value: Callable[[Record], float | None]) -> float | None:
        """Mean over the seeds of any number; None unless every record has it."""
        values = [value(record) for record in self.records]
        return None if not values or None in values else fmean(values)

    @property
    def mean(self) -> float | None:
        return self.mean_of(lambda record: record.result.top1)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return stdev(record.result.top1 for record in self.records) if len(self.records) > 1 else None

    @property
    def gains(self) -> dict[int, float]:
        """Seed to accuracy above scratch, for the seeds that both have."""
        base = {record.identity.seed: record.result.top1 for record in self.scratch}
        own = {record.identity.seed: record.result.top1 for record in self.records}
        return {seed: own[seed] - base[seed] for seed in own if seed in base}

    @property
    def gain(self) -> float | None:
        """Mean gain over the seeds in common with scratch."""
        return fmean(self.gains.values()) if self.gains else None

    @property
    def teacher_mismatch(self) -> bool:
        """Whether a teacher off its registry entry was allowed."""
        return any(record.teacher is not None and record.teacher.mismatch_allowed for record in self.records)


@dataclass(frozen=True)
class Row:
    """One method; a score for each column of the block. Not `installed`: known from papers alone."""

    label: str
    title: str
    scores: tuple[Score, ...]
    installed: bool = True

    @property
    def gains(self) -> list[float]:
        """Of the columns where there is one."""
        return [score.gain for score in self.scores if score.gain is not None]

    @property
    def average_gain(self) -> float | None:
        return fmean(self.gains) if self.gains else None


@dataclass(frozen=True)
class BlockColumn:
    """A column with the records that count in it."""

    column: Column
    records: tuple[Record, ...]
    printed: Mapping[str, tuple[Printed, ...]] = field(default_factory=dict, compare=False)

    @property
    def fingerprint(self) -> str | None:
        return next((record.identity.dataset.fingerprint for record in self.records), None)

    @property
    def taught(self) -> list[Record]:
        """The records that had a teacher."""
        return [record for record in self.records if record.identity.teacher and record.teacher]

    @property
    def teacher_top1(self) -> tuple[float, ...]:
        """What the teacher reached at its gates; several values if devices disagree."""
        return tuple(sorted({round(record.teacher.measured, 2) for record in self.taught}))

    def _of_means(self, bound: Callable[[float, int], float]) -> float | None:
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            groups.setdefault(record.label, []).append(record)
        means = (Score(tuple(group)).mean for group in groups.values())
        return max((bound(mean, self.column.test_images) for mean in means), default=None)

    @property
    def standard_error(self) -> float | None:
        """The largest binomial standard error among the column's scores."""
        return self._of_means(standard_error)

    @property
    def indistinguishable(self) -> float | None:
        """The largest difference that may be chance of the test images, see `uncertainty`."""
        return self._of_means(indistinguishable)


@dataclass(frozen=True)
class Missing:
    """A run the board has a place for and no record of."""

    label: str
    column: Column
    seed: int
    precision: str


@dataclass(frozen=True)
class Block:
    """The scores of one dataset and precision.

    Columns: the pairs with a distilled student or a printed number (else with scratch, else all).
    Rows: scratch, kd, then by the number of pairs with a gain, average gain, and printed values.
    """

    dataset: str
    precision: str
    columns: tuple[BlockColumn, ...]
    rows: tuple[Row, ...]
    standings: Standings

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed somebody has used; those the rules ask for if nobody has."""
        return tuple(sorted({r.identity.seed for c in self.columns for r in c.records})) or SEEDS

    @property
    def missing(self) -> list[Missing]:
        """The runs that would fill the block for all of its seeds."""
        return [
            Missing(row.label, column.column, seed, self.precision)
            for row in self.rows
            if row.installed
            for column, score in zip(self.columns, row.scores, strict=True)
            for seed in self.seeds
            if score.refusal is None and seed not in score.seeds
        ]


@dataclass(frozen=True)
class Aside:
    """A record that concerns a pair of the board and does not count, and why."""

    record: Record
    pair: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """One page: its blocks, and what stands beside them.

    Attributes:
        unmeasured: what would measure the pairs in no block: the methods and seeds of the dataset's first block.
        other_recipes: name of a recipe that is no column's, and how many runs of the board's pairs it has.
        statuses: of the submitted runs, by key: claimed, re-scored or re-run.
        external: numbers of these pairs that were measured with other code; they rank nothing.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    unmeasured: tuple[Missing, ...]
    aside: tuple[Aside, ...]
    other_recipes: dict[str, int]
    statuses: Mapping[str, str] = field(default_factory=dict)
    external: tuple[ExternalEntry, ...] = ()

    def heading(self, block: Block) -> str:
        """What tells a block from the others; empty for one block of fp32."""
        several = len({other.dataset for other in self.blocks}) > 1
        parts = [block.dataset] if several else []
        if block.precision != "fp32" or sum(other.dataset == block.dataset for other in self.blocks) > 1:
            parts.append(f"Precision: {block.precision}")
        return ", ".join(parts)

    @property
    def missing(self) -> list[Missing]:
        """Every run the board has a place for and no record of."""
        return [run for block in self.blocks for run in block.missing] + list(self.unmeasured)
