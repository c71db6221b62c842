"""How the numbers of a board are written, on every kind of page."""

from collections.abc import Iterable

from cakdbench.reports.board import SCRATCH, Block, BlockColumn, Column, Missing, Row, Score

MISSING, REFUSED = "–", "n/a"
MISMATCH, FEWER_SEEDS = "†", "‡"
MARKS = {
    MISMATCH: "the teacher's accuracy was off its registry entry, and the run allowed it",
    FEWER_SEEDS: "gain over the seeds that scratch has too, not over all seeds of the mean",
}


def points(value: float | None, signed: bool = False) -> str:
    """A percentage or a difference with two decimals, zero without a minus sign."""
    if value is None:
        return MISSING
    return format(round(value, 2) + 0.0, "+.2f" if signed else ".2f")


def score_text(score: Score, row: Row) -> str:
    """A cell: mean ± sd, gain, the number of seeds where the row's cells differ in it, and marks."""
    if not score.records:
        return MISSING if score.refusal is None else REFUSED
    parts = [points(score.mean)]
    if score.sd is not None:
        parts.append(f"± {points(score.sd)}")
    if score.gain is not None:
        parts.append(f"({points(score.gain, signed=True)})")
    if len({len(other.records) for other in row.scores if other.records}) > 1:
        parts.append(f"n={len(score.records)}")
    return " ".join(parts + score_marks(score))


def score_marks(score: Score) -> list[str]:
    fewer = score.gain is not None and len(score.gains) < len(score.records)
    return [MISMATCH] * score.teacher_mismatch + [FEWER_SEEDS] * fewer


def average_text(row: Row) -> str:
    """The average gain, and over how many of the pairs if not all."""
    if row.label == SCRATCH or row.average_gain is None:
        return "" if row.label == SCRATCH else MISSING
    whole = len(row.gains) == len(row.scores)
    return points(row.average_gain, signed=True) + ("" if whole else f" ({len(row.gains)} of {len(row.scores)} pairs)")


def seeds_text(row: Row) -> str:
    """The number of seeds of a row's cells."""
    return span(len(score.records) for score in row.scores if score.records) or MISSING


def teacher_text(column: BlockColumn) -> str:
    """What the teacher reached at its gates."""
    mismatch = any(record.teacher.mismatch_allowed for record in column.taught)
    values = column.teacher_top1
    text = MISSING if not values else " to ".join(dict.fromkeys(map(points, (values[0], values[-1]))))
    return f"{text} {MISMATCH}" if mismatch else text


def span(values: Iterable[float], spec: str = ",") -> str:
    """`3`, or `1 to 3`; nothing for no values."""
    values = sorted(values)
    return " to ".join(dict.fromkeys(format(value, spec) for value in (values[:1] + values[-1:])))


def pair_text(column: Column, block: Block, line: str) -> str:
    """A column's head: the models, and what the block's columns do not have in common.

    Args:
        line: what starts a new line.
    """
    others = [other.column for other in block.columns]
    parts = [f"{column.teacher} → {column.student}"]
    if len({other.dataset for other in others}) > 1:
        parts.append(column.dataset)
    if sum(other.pair == column.pair for other in others) > 1:
        parts.append(column.recipe)
    return line.join(parts)


def commands(missing: Iterable[Missing]) -> list[str]:
    """The command lines that make the missing runs; pairs that lack the same runs share one."""
    wanted: dict[tuple[str, Column], dict[int, list[str]]] = {}
    for run in missing:
        wanted.setdefault((run.precision, run.column), {}).setdefault(run.seed, []).append(run.label)
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for (precision, column), seeds in wanted.items():
        for labels in dict.fromkeys(tuple(labels) for labels in seeds.values()):
            same = [seed for seed, others in seeds.items() if tuple(others) == labels]
            key = (precision, column.recipe, ",".join(labels), ",".join(map(str, sorted(same))))
            grouped.setdefault(key, []).append(column.pair)
    return [_command(*key, pairs) for key, pairs in grouped.items()]


def _command(precision: str, recipe: str, labels: str, seeds: str, pairs: list[str]) -> str:
    parts = [f"--methods {labels}", f"--pairs '{','.join(pairs)}'", f"--recipe {recipe}", f"--seeds {seeds}"]
    if precision != "fp32":
        parts.append(f"--precision {precision}")
    return " ".join(["cakdbench run", *parts])
