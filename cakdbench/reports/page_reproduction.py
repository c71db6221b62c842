"""The reproduction ledger: every printed accuracy beside ours, and whether the two agree, by a stated rule."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t as student_t

from cakdbench.published.compare import Printed, sources
from cakdbench.reports.blocks import SCRATCH, Block, BlockColumn, BoardResults, Score
from cakdbench.reports.eligibility import Column
from cakdbench.reports.markup import Table, plain, table_text
from cakdbench.reports.printed import contradicted, protocol_for, protocol_lines
from cakdbench.reports.text import MISSING, points
from cakdbench.results.ranking import SEEDS

RULE = f"""\
The verdicts, in this order:

- **not yet measured**: no standard run of the method on the pair.
- **not comparable**: fewer than {len(SEEDS)} seeds here, or a setting here that none of the source's statements (paper,
  released code, its author) has; what they do not state is listed, but does not count.
- **reproduced**: the difference is at most what training alone makes likely (95 %): t(n-1) sd sqrt(1/n + 1/k), plus
  half of the last printed digit; sd and n are ours, k is the number of trainings behind the printed number (1 if not
  stated).
- **not reproduced**: the difference is larger.

Both numbers are of the same test images, so that these add nothing to the tolerance. A best epoch chosen on the test
set, where a source may have done so, is no reason for a verdict; it makes printed numbers higher."""


class Verdict(StrEnum):
    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not yet measured"


@dataclass(frozen=True)
class Comparison:
    """A printed accuracy and ours; all numbers in percent or points.

    Attributes:
        gains: ours and the printed one over the scratch student of the same table, None where there is none.
        tolerance: the largest difference that counts as reproduced; None without the seeds for it.
        contradicted: settings of ours that no statement of the source has.
    """

    method: str
    column: Column
    printed: Printed
    score: Score
    gains: tuple[float | None, float | None]
    tolerance: float | None
    contradicted: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """Ours minus the printed one."""
        return None if self.score.mean is None else self.score.mean - self.printed.number

    @property
    def verdict(self) -> Verdict:
        if self.difference is None:
            return Verdict.NOT_MEASURED
        if self.tolerance is None or self.contradicted:
            return Verdict.NOT_COMPARABLE
        return Verdict.REPRODUCED if abs(self.difference) <= self.tolerance else Verdict.NOT_REPRODUCED


def comparisons(block: Block) -> Iterator[Comparison]:
    """Every printed accuracy of a block's students, with ours."""
    for place, column in enumerate(block.columns):
        for row in block.rows:
            for printed in row.scores[place].printed:
                yield _comparison(row.label, column, row.scores[place], printed)


def _comparison(method: str, column: BlockColumn, score: Score, printed: Printed) -> Comparison:
    base = [p for p in column.printed.get(SCRATCH, ()) if (p.source, p.table) == (printed.source, printed.table)]
    gain = printed.number - base[0].number if base and method != SCRATCH else None
    return Comparison(
        method=method,
        column=column.column,
        printed=printed,
        score=score,
        gains=(score.gain, gain),
        tolerance=tolerance(score, printed),
        contradicted=contradicted(column.column, protocol_for(column.column, printed)),
    )


def tolerance(score: Score, printed: Printed) -> float | None:
    """Half the width of the 95 % interval for the difference of two means of trainings, plus the printed rounding.

    None with fewer seeds than the rules ask for.
    """
    seeds = len(score.records)
    if seeds < len(SEEDS):
        return None
    source = sources()[printed.source]
    repeated = source.repetitions if not source.repeated or printed.method in source.repeated else None
    spread = score.sd * math.sqrt(1 / seeds + 1 / (repeated or 1))
    return float(student_t.ppf(0.975, seeds - 1)) * spread + 0.5 * 10**-printed.decimals


def reproduction_markdown(boards: Iterable[BoardResults]) -> str:
    """The page `leaderboards/reproduction.md`."""
    parts = [
        "# Reproduction ledger",
        "*Made from the records and `published/` by `cakdbench leaderboard`; changes by hand are overwritten.*",
        "Every accuracy of a student that one of the sources prints for a pair of our suites, beside ours "
        "(mean ± sd over seeds, last epoch). Gains are over the scratch student of the same table, and over our own.",
        RULE,
    ]
    for board in boards:
        for block in board.blocks:
            found = list(comparisons(block))
            if found:
                parts += _section(board, block, found)
    return "\n\n".join(parts) + "\n"


def _section(board: BoardResults, block: Block, found: list[Comparison]) -> Iterator[str]:
    heading = board.heading(block)
    yield f"## {plain(board.title)}" + (f": {plain(heading)}" if heading else "")
    counts = [(verdict, sum(each.verdict is verdict for each in found)) for verdict in Verdict]
    yield "; ".join(f"{count} {verdict}" for verdict, count in counts if count) + "."
    yield from protocol_lines(block)
    heads = [
        "pair",
        "method",
        "printed",
        "source",
        "ours",
        "difference",
        "tolerance",
        "gain printed",
        "gain ours",
        "verdict",
    ]
    yield table_text(Table(heads, [_line(each) for each in found]))


def _line(each: Comparison) -> list[str]:
    score, printed = each.score, each.printed
    ours = MISSING if score.mean is None else points(score.mean) + (f" ± {points(score.sd)}" if score.sd else "")
    verdict = str(each.verdict)
    if each.verdict is Verdict.NOT_COMPARABLE:
        verdict += f": {'; '.join(each.contradicted) or f'{len(score.records)} seeds'}"
    return [
        f"{each.column.teacher} → {each.column.student}",
        each.method,
        printed.value,
        f"{printed.source}, {printed.table}",
        ours,
        points(each.difference, signed=True),
        points(each.tolerance),
        points(each.gains[1], signed=True),
        points(each.gains[0], signed=True),
        verdict,
    ]
