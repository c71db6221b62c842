"""The results of a board: its cells by dataset and precision, what is missing and what does not count."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pandas as pd

from cakdbench.grid.plan import ALWAYS
from cakdbench.published.ledger import Printed
from cakdbench.records import Record
from cakdbench.reports.board import BREAK
from cakdbench.reports.eligibility import Excluded, sort_runs
from cakdbench.reports.missing import Missing
from cakdbench.reports.standard import Column, Standard
from cakdbench.reports.text import span
from cakdbench.results.cells import add_gains, average_gain, pair_scores
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.ranking import SEEDS, Answers, Standings, claimed, settled_runs, standings
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.status import CLAIMED

SCRATCH, *_ = BASELINES = ALWAYS
"""Rows of every board, in this order, measured or not."""
TEACHER = "teacher"
"""What printed accuracies of the teacher itself go by."""

NUMBERS = ("mean", "sd", "gain", "top5", "optimistic", "ema")
"""What a cell takes from `pair_scores`."""


@dataclass(frozen=True)
class BlockColumn:
    """A column with the runs that count in it.

    Attributes:
        stands: it would be here without claims too.
        test_images: as many as its runs were tested on, where their answers are known; else those of the dataset.
        head: the models, and on a second line the recipe where the block has the pair under several.
        runs: the records as a frame, all of them on this pair and recipe, with their gains.
        printed: what papers print, by metric and method.
    """

    column: Column
    head: str
    records: tuple[Record, ...]
    runs: pd.DataFrame = field(compare=False)
    printed: Mapping[str, Mapping[str, tuple[Printed, ...]]] = field(compare=False)
    test_images: int
    stands: bool = True

    @cached_property
    def settled(self) -> pd.DataFrame:
        """Return the runs that say what holds for the column: no mere claims, if there are others."""
        return settled_runs(self.runs)

    @cached_property
    def settled_records(self) -> list[Record]:
        keys = {*self.settled["key"]}
        return [record for record in self.records if record.key in keys]

    @property
    def name(self) -> str:
        """Return the head on one line."""
        return self.head.replace(BREAK, ", ")


@dataclass(frozen=True)
class Score:
    """One cell: the runs of a method on a pair, a seed each.

    Accuracies in percent, of the last epoch where nothing else is said; sd and gain in points. None without a run, sd
    of a single one, ema unless all runs have one.

    Attributes:
        runs: those of the column that are the method's. gain: the mean over those whose seed scratch has too.
        refusal: why the method cannot run on the pair, if it has not.
    """

    column: BlockColumn = field(compare=False)
    label: str
    runs: pd.DataFrame = field(compare=False)
    refusal: str | None = None
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    top5: float | None = None
    optimistic: float | None = None
    ema: float | None = None

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.runs["seed"])

    @property
    def is_claimed(self) -> bool:
        return bool(claimed(self.runs).any())

    def printed(self, metric: str = "top1") -> tuple[Printed, ...]:
        """Return the values of papers."""
        return self.column.printed[metric].get(self.label, ())


@dataclass(frozen=True)
class Row:
    """One method; a score for each column of the block. Without a kind it is known from papers alone."""

    label: str
    title: str
    kind: str | None
    scores: tuple[Score, ...]

    @cached_property
    def counted(self) -> list[Score]:
        """Return the measured cells that say what holds for the method: no mere claims, if there are others."""
        return counted_scores(self.scores)

    @property
    def gains(self) -> list[float]:
        """Return the gains of the cells that count and have one."""
        return [score.gain for score in self.counted if score.gain is not None]

    @property
    def is_whole(self) -> bool:
        """Return True if there is a gain on every pair; a pair of claims alone is one for claims alone."""
        return len(self.gains) == self.pairs

    @property
    def pairs(self) -> int:
        """Return on how many pairs the method could have a gain that counts."""
        return sum(score.column.stands or self.is_claim for score in self.scores)

    @property
    def average_gain(self) -> float | None:
        return average_gain(self.gains)

    @property
    def is_claim(self) -> bool:
        """Return True for a method of which nothing is here but claims: it comes last, and asks for no runs."""
        return any(score.is_claimed for score in self.counted)

    @property
    def counts(self) -> list[int]:
        """Return the number of seeds of each cell that counts."""
        return [len(score.seeds) for score in self.counted]


def counted_scores(scores: Iterable[Score]) -> list[Score]:
    """Return the measured cells that are no mere claims; all measured if there are none."""
    measured = [score for score in scores if score.seeds]
    return [score for score in measured if not score.is_claimed] or measured


@dataclass(frozen=True)
class Block:
    """The scores of one dataset and precision.

    Columns: the pairs with a distilled student or a printed number (else with scratch, else all).
    Rows: scratch, kd, then by the number of pairs with a gain, average gain, and printed values; mere claims last.
    """

    dataset: str
    precision: str
    columns: tuple[BlockColumn, ...]
    rows: tuple[Row, ...]
    standings: Standings

    @property
    def records(self) -> list[Record]:
        return [record for column in self.columns for record in column.records]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Return every seed somebody has used; those the rules ask for if nobody has."""
        return tuple(sorted({*self.settled["seed"]})) or SEEDS

    @cached_property
    def settled(self) -> pd.DataFrame:
        """Return the runs that say what holds for the block: no mere claims, if there are others."""
        return settled_runs(pd.concat([column.runs for column in self.columns]))

    @cached_property
    def missing(self) -> list[Missing]:
        """Return the runs that would fill the block for all of its seeds."""
        return [run for row in self.rows for score in row.scores for run in self.missing_of(row, score)]

    def missing_of(self, row: Row, score: Score) -> list[Missing]:
        """Return the runs that would fill one cell for all seeds of the block."""
        if row.kind is None or row.is_claim or score.refusal is not None:
            return []
        made = set(score.seeds)
        seeds = [seed for seed in self.seeds if seed not in made]
        return [Missing(row.label, score.column.column, seed, self.precision) for seed in seeds]


@dataclass(frozen=True, eq=False)
class BoardResults:
    """All that stands on one page: its blocks, and what stands beside them.

    Attributes:
        unmeasured: what would measure the pairs in no block: the methods and seeds of the dataset's first block.
        other_recipes: name of a recipe that is no column's, and how many runs of the board's pairs it has.
        external: numbers of these pairs that were measured with other code; they rank nothing.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    unmeasured: tuple[Missing, ...]
    excluded: tuple[Excluded, ...]
    other_recipes: Mapping[str, int]
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
        statuses: of the submitted records by key: claimed, re-scored or re-run.
        external: of any pairs.
    """
    runs = sort_runs(records, columns, rules, statuses)
    blocks: list[Block] = []
    unmeasured: list[Missing] = []
    for dataset in dict.fromkeys(column.dataset for column in columns):
        own = [column for column in columns if column.dataset == dataset]
        precisions = {precision for precision, column in runs.counting if column in own} or {"fp32"}
        made = []
        for precision in sorted(precisions, key=lambda name: (name != "fp32", name)):
            counting = {column: runs.counting.get((precision, column), ()) for column in own}
            made.append(_block(precision, _shown(counting, rules), rules, answers, statuses))
        first, shown = made[0], {column.column for block in made for column in block.columns}
        for column in own:
            if column not in shown:
                counting = {column: runs.counting.get((first.precision, column), ())}
                bare = _block_column(column, counting, rules, answers, statuses)
                scores = [(row, _score(row.label, bare, rules)) for row in first.rows]
                unmeasured += [run for row, score in scores for run in first.missing_of(row, score)]
        blocks += made
    pairs = {column.pair for column in columns}
    beside = tuple(entry for entry in external if entry.pair in pairs)
    return BoardResults(name, title, tuple(blocks), tuple(unmeasured), runs.excluded, runs.other_recipes, beside)


Counting = Mapping[Column, tuple[Record, ...]]
"""The runs that count in each column, of one precision."""


def _shown(counting: Counting, rules: Standard) -> Counting:
    """Return the columns with a taught student or printed numbers, else those with any run, else all."""
    taught = {c: runs for c, runs in counting.items() if any(r.teacher for r in runs) or rules.printed(c)}
    return taught or {c: runs for c, runs in counting.items() if runs} or counting


def _block(precision: str, counting: Counting, rules: Standard, answers: Answers, statuses: Mapping[str, str]) -> Block:
    settled = {c: tuple(r for r in runs if statuses.get(r.key) != CLAIMED) for c, runs in counting.items()}
    stands = _shown(settled, rules)
    columns = tuple(_block_column(column, counting, rules, answers, statuses, column in stands) for column in counting)
    measured = {record.label for column in columns for record in column.records}
    printed = {label for column in columns for label in column.printed["top1"]} - {TEACHER}
    rows = sorted((_row(label, columns, rules) for label in measured | printed | set(BASELINES)), key=_order)
    pairs = [(column.column.pair, column.column.recipe) for column in columns]
    standing = standings(pd.concat([column.runs for column in columns]), pairs, answers)
    return Block(columns[0].column.dataset, precision, columns, tuple(rows), standing)


def _block_column(
    column: Column,
    counting: Counting,
    rules: Standard,
    answers: Answers,
    statuses: Mapping[str, str],
    stands: bool = True,
) -> BlockColumn:
    models, records = f"{column.teacher} → {column.student}", counting[column]
    several = sum(other.pair == column.pair for other in counting) > 1
    frame = runs_frame(StoredRecord(record, status=statuses.get(record.key)) for record in records)
    # A run without teacher counts on every pair of its student, and one recipe may have several names.
    runs = add_gains(frame.assign(pair=column.pair, recipe=column.recipe))
    printed = {metric: rules.printed(column, metric) for metric in ("top1", "top5")}
    head = f"{models}{BREAK}{column.recipe}" if several else models
    tested = next((len(hits) for record in records if (hits := answers(record.key)) is not None), column.test_images)
    return BlockColumn(column, head, records, runs, printed, tested, stands)


def _order(row: Row) -> tuple[Any, ...]:
    if row.label in BASELINES:
        return (0, BASELINES.index(row.label))
    printed = sum(bool(score.printed()) for score in row.scores)
    return (1, row.is_claim, -len(row.gains), -(row.average_gain or 0), -printed, row.label)


def _row(label: str, columns: Iterable[BlockColumn], rules: Standard) -> Row:
    scores = tuple(_score(label, column, rules) for column in columns)
    return Row(label, _title(label, scores, rules), rules.kind(label), scores)


def _title(label: str, scores: Iterable[Score], rules: Standard) -> str:
    """Return the title of a row; where its settings were searched, by how many trials in place of their values.

    Those stand beside it, as the label.
    """
    counts = sorted({int(trials) for score in counted_scores(scores) for trials in score.runs["trials"] if trials})
    return f"{rules.title(label.partition('[')[0])} (tuned, {span(counts)} trials)" if counts else rules.title(label)


def _score(label: str, column: BlockColumn, rules: Standard) -> Score:
    runs = column.runs[column.runs["method"] == label]
    if runs.empty:
        return Score(column, label, runs, rules.refusal(label, column.column))
    numbers = pair_scores(runs)
    return Score(column, label, runs, **{name: numbers[name] for name in NUMBERS if pd.notna(numbers[name])})
