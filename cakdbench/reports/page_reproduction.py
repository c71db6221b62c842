"""The reproduction ledger: every printed accuracy beside ours, and whether the two agree, by a stated rule."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t as student_t

from cakdbench.published.ledger import Printed, sources
from cakdbench.reports.blocks import SCRATCH, Block, BoardResults
from cakdbench.reports.board import Board, Section, table
from cakdbench.reports.printed import contradicted, protocol_lines
from cakdbench.reports.standard import Column
from cakdbench.reports.text import points, prose
from cakdbench.results.cells import method_scores
from cakdbench.results.ranking import SEEDS

TEXTS = prose("reproduction", seeds=len(SEEDS))
HEADS = (
    *("pair", "method", "printed", "source", "ours", "difference", "tolerance", "gain printed", "gain ours"),
    "verdict",
)


class Verdict(StrEnum):
    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not yet measured"


@dataclass(frozen=True)
class Comparison:
    """A printed accuracy and ours; all numbers in percent or points, None where there is none.

    Attributes:
        n: our seeds. ranked: they are those that the rules rank by. mean, sd, gain: of the metric that is printed; the
            gain is over our scratch student.
        printed_gain: over the scratch student of the same table.
    """

    column: Column
    printed: Printed
    printed_gain: float | None
    n: int = 0
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    ranked: bool = False

    @property
    def contradicted(self) -> tuple[str, ...]:
        """Return the settings of ours that no statement of the source has."""
        return contradicted(self.column, self.printed)

    @property
    def difference(self) -> float | None:
        """Return ours minus the printed one."""
        return None if self.mean is None else self.mean - self.printed.number

    @property
    def tolerance(self) -> float | None:
        """Return the largest difference that counts as reproduced; None without the seeds of the rules.

        That is half the width of the 95 % interval for the difference of two means of trainings, plus the rounding.
        """
        if self.sd is None or not self.ranked:
            return None
        source = sources()[self.printed.source]
        repeated = source.repetitions if not source.repeated or self.printed.method in source.repeated else None
        spread = self.sd * math.sqrt(1 / self.n + 1 / (repeated or 1))
        return float(student_t.ppf(0.975, self.n - 1)) * spread + 0.5 * 10**-self.printed.decimals

    @property
    def objection(self) -> str:
        """Return why numbers that are there cannot be compared."""
        seeds = f"{self.n} seed{'s' * (self.n > 1)}" if self.n < len(SEEDS) else "not ranked"
        return "; ".join(self.contradicted) or seeds

    @property
    def verdict(self) -> Verdict:
        if self.difference is None:
            return Verdict.NOT_MEASURED
        if self.tolerance is None or self.contradicted:
            return Verdict.NOT_COMPARABLE
        return Verdict.REPRODUCED if abs(self.difference) <= self.tolerance else Verdict.NOT_REPRODUCED


def comparisons(block: Block, metric: str = "top1") -> Iterator[Comparison]:
    """Yield every printed accuracy of a block's students, with ours; `metric` is top1 or top5."""
    for column in block.columns:
        scores, printed = method_scores(column.runs, metric), column.printed[metric]
        base = {(p.source, p.table): p.number for p in reversed(printed.get(SCRATCH, ()))}
        for value in (value for row in block.rows for value in printed.get(row.label, ())):
            start = None if value.method == SCRATCH else base.get((value.source, value.table))
            gain = None if start is None else value.number - start
            ours = scores.get(value.method, {})
            numbers = {name: ours[name] for name in ("n", "ranked", "mean", "sd", "gain") if ours}
            yield Comparison(column.column, value, gain, **numbers)


def reproduction_board(boards: Iterable[BoardResults]) -> Board:
    """Return the page."""
    sections = [Section(label="About", notes=TEXTS["about"])]
    for board in boards:
        for block in board.blocks:
            sections += _sections(board, block)
    return Board("reproduction", "Reproduction ledger", tuple(sections))


def _sections(board: BoardResults, block: Block) -> Iterator[Section]:
    title = ": ".join(filter(None, (board.title, board.heading(block))))
    for metric, heading in (("top1", title), ("top5", f"{title}: top-5 accuracy")):
        compared = list(comparisons(block, metric))
        if compared:
            counts = Counter(comparison.verdict for comparison in compared)
            summary = "; ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]) + "."
            protocols = protocol_lines(block) if metric == "top1" else ()
            yield Section(heading, notes=(summary, *protocols), frame=table(HEADS, map(_line, compared)))


def _line(comparison: Comparison) -> list[str]:
    printed, mean, sd = comparison.printed, comparison.mean, comparison.sd
    verdict = str(comparison.verdict)
    if comparison.verdict is Verdict.NOT_COMPARABLE:
        verdict += f": {comparison.objection}"
    return [
        f"{comparison.column.teacher} → {comparison.column.student}",
        printed.method,
        printed.value,
        f"{printed.source}, {printed.table}",
        points(mean) + (f" ± {points(sd)}" if sd else ""),
        points(comparison.difference, signed=True),
        points(comparison.tolerance),
        points(comparison.printed_gain, signed=True),
        points(comparison.gain, signed=True),
        verdict,
    ]
