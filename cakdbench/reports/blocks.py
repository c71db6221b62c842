"""The results of a board: its cells by dataset and precision, what is missing and what does not count."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd

from cakdbench.grid.plan import ALWAYS
from cakdbench.published.ledger import Printed
from cakdbench.records import Record
from cakdbench.reports.eligibility import Column, Excluded, Standard, sort_runs
from cakdbench.results.cells import average_gain, pair_scores
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.ranking import SEEDS, Answers, Standings, standings
from cakdbench.submissions.entry import ExternalEntry

SCRATCH, *_ = BASELINES = ALWAYS
"""Rows of every board, in this order, measured or not."""
TEACHER = "teacher"
"""What printed accuracies of the teacher itself go by."""

NUMBERS = ("mean", "sd", "gain", "top5", "optimistic", "ema")
"""What a cell takes from `pair_scores`."""


@dataclass(frozen=True)
class Score:
    """One cell: the runs of a method on a pair, a seed each, and the scratch runs beside them.

    Accuracies in percent, of the last epoch where nothing else is said; sd and gain in points. None without a run, sd
    of a single one, ema unless all runs have one.

    Attributes:
        gain: over the seeds that scratch has too.
        refusal: why the method cannot run on the pair, if it has not.
        printed, printed_top5: the values of papers.
    """

    records: tuple[Record, ...]
    scratch: tuple[Record, ...] = ()
    refusal: str | None = None
    printed: tuple[Printed, ...] = ()
    printed_top5: tuple[Printed, ...] = ()
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    top5: float | None = None
    optimistic: float | None = None
    ema: float | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.identity.seed for record in self.records)

    @property
    def gains(self) -> dict[int, float]:
        """Return the accuracy above scratch by seed, for the seeds that both have."""
        base = {record.identity.seed: record.result.top1 for record in self.scratch}
        own = {record.identity.seed: record.result.top1 for record in self.records}
        return {seed: own[seed] - base[seed] for seed in own if seed in base}

    @property
    def fewer_seeds(self) -> bool:
        """Return True if the gain is over fewer seeds than the mean."""
        return self.gain is not None and len(self.gains) < len(self.records)

    @property
    def teacher_mismatch(self) -> bool:
        """Return True if a teacher off its registry entry was allowed."""
        return any(record.teacher is not None and record.teacher.mismatch_allowed for record in self.records)


@dataclass(frozen=True)
class Row:
    """One method; a score for each column of the block. Without a kind it is known from papers alone."""

    label: str
    title: str
    kind: str | None
    scores: tuple[Score, ...]

    @property
    def gains(self) -> list[float]:
        """Return the gains of the columns where there is one."""
        return [score.gain for score in self.scores if score.gain is not None]

    @property
    def average_gain(self) -> float | None:
        return average_gain(self.gains)

    @property
    def counts(self) -> list[int]:
        """Return the number of seeds of each measured cell."""
        return [len(score.records) for score in self.scores if score.records]


@dataclass(frozen=True)
class BlockColumn:
    """A column with the runs that count in it."""

    column: Column
    records: tuple[Record, ...]
    printed: Mapping[str, tuple[Printed, ...]] = field(default_factory=dict, compare=False)
    printed_top5: Mapping[str, tuple[Printed, ...]] = field(default_factory=dict, compare=False)

    @property
    def fingerprint(self) -> str | None:
        return next((record.identity.dataset.fingerprint for record in self.records), None)

    @property
    def taught(self) -> list[Record]:
        """Return the runs that had a teacher."""
        return [record for record in self.records if record.identity.teacher and record.teacher]

    @property
    def teacher_top1(self) -> tuple[float, ...]:
        """Return what the teacher reached where it was verified; several values if devices disagree."""
        return tuple(sorted({round(record.teacher.measured, 2) for record in self.taught}))

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """Return the runs as a frame, all of them on this pair and recipe."""
        frame = runs_frame(map(StoredRecord, self.records))
        # A run without teacher counts on every pair of its student, and one recipe may have several names.
        return frame.assign(pair=self.column.pair, recipe=self.column.recipe)


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
    def records(self) -> list[Record]:
        return [record for column in self.columns for record in column.records]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return every seed somebody has used; those the rules ask for if nobody has."""
        return tuple(sorted({record.identity.seed for record in self.records})) or SEEDS

    @property
    def missing(self) -> list[Missing]:
        """Return the runs that would fill the block for all of its seeds."""
        return [run for row in self.rows for place in range(len(self.columns)) for run in self.missing_of(row, place)]

    def missing_of(self, row: Row, place: int) -> list[Missing]:
        """Return the runs that would fill one cell for all seeds of the block."""
        score = row.scores[place]
        if row.kind is None or score.refusal is not None:
            return []
        seeds = [seed for seed in self.seeds if seed not in score.seeds]
        return [Missing(row.label, self.columns[place].column, seed, self.precision) for seed in seeds]

    def bound(self, place: int, bound: Callable[[float, int], float]) -> float | None:
        """Return the largest bound, a function of accuracy and test images, among the scores of one column."""
        images = self.columns[place].column.test_images
        means = (row.scores[place].mean for row in self.rows)
        return max((bound(mean, images) for mean in means if mean is not None), default=None)

    def is_best(self, row: Row, place: int) -> bool:
        """Return True if the method cannot be told apart from the best one of a pair."""
        level = self.standings.level
        return place < len(level) and row.label in level[place]


@dataclass(frozen=True)
class BoardResults:
    """All that stands on one page: its blocks, and what stands beside them.

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
    excluded: tuple[Excluded, ...]
    other_recipes: Mapping[str, int]
    statuses: Mapping[str, str] = field(default_factory=dict)
    external: tuple[ExternalEntry, ...] = ()

    def heading(self, block: Block) -> str:
        """Return what tells a block from the others; empty for one block of fp32."""
        several = len({other.dataset for other in self.blocks}) > 1
        parts = [block.dataset] if several else []
        if block.precision != "fp32" or sum(other.dataset == block.dataset for other in self.blocks) > 1:
            parts.append(f"Precision: {block.precision}")
        return ", ".join(parts)

    @property
    def missing(self) -> list[Missing]:
        """Return every run the board has a place for and no record of."""
        return [run for block in self.blocks for run in block.missing] + list(self.unmeasured)


def board_results(
    name: str,
    title: str,
    columns: Sequence[Column],
    records: Iterable[Record],
    rules: Standard,
    answers: Answers = lambda key: None,
    statuses: Mapping[str, str] = MappingProxyType({}),
    external: Iterable[ExternalEntry] = (),
) -> BoardResults:
    """Return the results of a board.

    Args:
        columns: the pairs of the board, in the order they are shown.
        records: of any pairs, in any order; a key that occurs twice counts once, the latest record of it.
        answers: which test images the run of a key classified right, where that is known.
        statuses: of the submitted records, by key.
        external: of any pairs.
    """
    runs = sort_runs(records, columns, rules)
    blocks, unmeasured = [], []
    for dataset in dict.fromkeys(column.dataset for column in columns):
        own = [column for column in columns if column.dataset == dataset]
        filled = {
            precision: [_filled(column, runs.counting.get((precision, column), ()), rules) for column in own]
            for precision in runs.precisions(own)
        }
        made = [_block(precision, _shown(filled[precision]), rules, answers) for precision in filled]
        blocks += made
        unmeasured += _unmeasured(made, filled[made[0].precision], rules)
    pairs = {column.pair for column in columns}
    beside = tuple(entry for entry in external if entry.pair in pairs)
    return BoardResults(
        name, title, tuple(blocks), tuple(unmeasured), runs.excluded, runs.other_recipes, statuses, beside
    )


def _filled(column: Column, records: tuple[Record, ...], rules: Standard) -> BlockColumn:
    return BlockColumn(column, records, rules.printed(column), rules.printed(column, "top5"))


def _shown(columns: list[BlockColumn]) -> list[BlockColumn]:
    """Return the columns with a taught student or printed numbers, else those with any run, else all."""
    return [c for c in columns if c.taught or c.printed] or [c for c in columns if c.records] or columns


def _unmeasured(blocks: list[Block], columns: list[BlockColumn], rules: Standard) -> list[Missing]:
    """Return what the first block's methods and seeds lack on the columns that no block shows."""
    shown = {column.column for block in blocks for column in block.columns}
    first, missing = blocks[0], []
    for column in columns:
        if column.column in shown:
            continue
        measured = {(record.label, record.identity.seed) for record in column.records}
        for row in first.rows:
            if row.kind is not None and rules.refusal(row.label, column.column) is None:
                seeds = [seed for seed in first.seeds if (row.label, seed) not in measured]
                missing += [Missing(row.label, column.column, seed, first.precision) for seed in seeds]
    return missing


def _block(precision: str, columns: list[BlockColumn], rules: Standard, answers: Answers) -> Block:
    measured = {record.label for column in columns for record in column.records}
    printed = {label for column in columns for label in column.printed} - {TEACHER}
    rows = sorted((_row(label, columns, rules) for label in measured | printed | set(BASELINES)), key=_order)
    pairs = [(column.column.pair, column.column.recipe) for column in columns]
    standing = standings(pd.concat([column.runs for column in columns]), pairs, answers)
    return Block(columns[0].column.dataset, precision, tuple(columns), tuple(rows), standing)


def _order(row: Row) -> tuple[Any, ...]:
    if row.label in BASELINES:
        return (0, BASELINES.index(row.label))
    printed = sum(bool(score.printed) for score in row.scores)
    return (1, -len(row.gains), -(row.average_gain or 0), -printed, row.label)


def _row(label: str, columns: list[BlockColumn], rules: Standard) -> Row:
    scores = tuple(_score(label, column, rules) for column in columns)
    return Row(label, rules.title(label), rules.kind(label), scores)


def _score(label: str, column: BlockColumn, rules: Standard) -> Score:
    records = tuple(record for record in column.records if record.label == label)
    scratch = tuple(record for record in column.records if record.label == SCRATCH and label != SCRATCH)
    refusal = None if records else rules.refusal(label, column.column)
    printed = column.printed.get(label, ()), column.printed_top5.get(label, ())
    return Score(records, scratch, refusal, *printed, **_numbers(label, column, scratch) if records else {})


def _numbers(label: str, column: BlockColumn, scratch: Iterable[Record]) -> dict[str, float | None]:
    baseline = {record.identity.seed: record.result.top1 for record in scratch}
    scores = pair_scores(column.runs[column.runs["method"] == label], baseline)
    return {name: None if pd.isna(scores[name]) else scores[name] for name in NUMBERS}
