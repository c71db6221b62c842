"""What the plots of a block show: the numbers, without a picture. Equal numbers give equal digests."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean

from cakdbench.records import Record
from cakdbench.reports.board import BASELINES, SCRATCH, Block, Row, Score
from cakdbench.reports.text import pair_text

DRAWING = 1
"""Part of every digest: raise it when a plot is drawn differently, so that pictures drawn before are stale."""
REFUSED = "refused"
LEADERS = 5
"""How many methods beside the baselines stand out among the learning curves."""
DRAWN_EPOCHS = 50
"""The most points of one learning curve."""


@dataclass(frozen=True)
class Heat:
    """Gains over scratch in points, `(methods, pairs)`; None where not measured, `REFUSED` where none can be."""

    pairs: tuple[str, ...]
    methods: tuple[str, ...]
    cells: tuple[tuple[float | str | None, ...], ...]


@dataclass(frozen=True)
class Cost:
    """A method's gain against what its training costs.

    Attributes:
        cost: training time per image, as a multiple of that of scratch.
        gain: average over the pairs, in points.
        whole: whether all pairs count in it; if not, it cannot be compared.
        front: whether no compared method gains as much for less, or more for as much.
    """

    method: str
    cost: float
    gain: float
    whole: bool
    front: bool


@dataclass(frozen=True)
class Costs:
    points: tuple[Cost, ...]


@dataclass(frozen=True)
class Curve:
    """Test accuracy in percent after some epochs (counted from 1): mean, least and greatest over the seeds."""

    method: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """For each pair, its curves; titles of the baselines, and of the methods of the greatest average gains."""

    baselines: tuple[str, ...]
    leaders: tuple[str, ...]
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]


@dataclass(frozen=True)
class Ranks:
    """Methods by average rank, and the groups that cannot be told apart.

    Attributes:
        methods: title, average rank, letters.
        groups: letter, and the places in `methods` of those that have it; two or more.
    """

    methods: tuple[tuple[str, float, str], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]


LONG = 32
"""The most characters of a method's name."""
Shown = Heat | Costs | Curves | Ranks


def _name(row: Row) -> str:
    """The title, cut in the middle if it is long."""
    return row.title if len(row.title) <= LONG else f"{row.title[:20]}…{row.title[21 - LONG :]}"


def heat(block: Block) -> Heat | None:
    """The gains of a block; without the methods and the pairs that have none."""
    rows = [row for row in block.rows if row.gains]
    places = [p for p in range(len(block.columns)) if any(row.scores[p].gain is not None for row in rows)]
    if not rows:
        return None
    cells = tuple(tuple(_heat_cell(row.scores[place]) for place in places) for row in rows)
    pairs = tuple(pair_text(block.columns[place].column, block, "\n") for place in places)
    return Heat(pairs, tuple(map(_name, rows)), cells)


def _heat_cell(score: Score) -> float | str | None:
    return REFUSED if score.gain is None and score.refusal is not None else score.gain


def costs(block: Block) -> Costs | None:
    """Gain and cost of every method that has both, scratch first; None if none has."""
    found = [(_name(row), *_cost(row), len(row.gains) == len(row.scores)) for row in block.rows if _cost(row)]
    if not found:
        return None
    scratch = next(_name(row) for row in block.rows if row.label == SCRATCH)
    found.insert(0, (scratch, 1.0, 0.0, True))
    front = pareto_front([(cost, gain) if whole else (math.inf, -math.inf) for _, cost, gain, whole in found])
    return Costs(tuple(Cost(*each, each[-1] and place in front) for place, each in enumerate(found)))


def _cost(row: Row) -> tuple[float, float] | None:
    """Multiple of scratch's training time per image, mean over pairs and seeds, and average gain."""
    ratios = [ratio for score in row.scores for ratio in _cost_ratios(score)]
    if row.average_gain is None or not ratios:
        return None
    return round(geometric_mean(ratios), 6), row.average_gain


def _cost_ratios(score: Score) -> list[float]:
    """Of the seeds that were trained in the same way as scratch's; another device's time says nothing."""
    scratch = {record.identity.seed: record.conditions for record in score.scratch}
    ratios = []
    for record in score.records:
        own, other = record.conditions, scratch.get(record.identity.seed)
        if other and _same_way(own, other) and min(own.images_per_second, other.images_per_second) > 0:
            ratios.append(other.images_per_second / own.images_per_second)
    return ratios


def _same_way(one, other) -> bool:
    facts = ("device", "processes", "threads", "compiled", "channels_last")
    return all(getattr(one, fact) == getattr(other, fact) for fact in facts)


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Places of the points (cost, gain) that no other beats: at least as good in both, better in one."""
    front, best = set(), -math.inf
    for cost, gain in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if gain > best:
            front |= {place for place, point in enumerate(points) if point == (cost, gain)}
            best = gain
    return front


def curves(block: Block) -> Curves | None:
    """The learning curves of a block's pairs; a curve needs two epochs with test accuracy in all of its seeds."""
    panels = []
    for place, column in enumerate(block.columns):
        found = tuple(curve for row in block.rows if (curve := _curve(row, row.scores[place].records)))
        if found:
            panels.append((pair_text(column.column, block, ", "), found))
    baselines = tuple(_name(row) for row in block.rows if row.label in BASELINES)
    leaders = [_name(row) for row in block.rows if row.label not in BASELINES and row.gains][:LEADERS]
    return Curves(baselines, tuple(leaders), tuple(panels)) if panels else None


def _curve(row: Row, records: Iterable[Record]) -> Curve | None:
    runs = [{line.epoch + 1: line.top1 for line in r.history if _finite(line.top1)} for r in records]
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    if len(epochs) < 2:
        return None
    step = -(-len(epochs) // DRAWN_EPOCHS)
    epochs = epochs[::-step][::-1]
    values = [[run[epoch] for run in runs] for epoch in epochs]
    lines = (tuple(round(of(seeds), 4) for seeds in values) for of in (fmean, min, max))
    return Curve(_name(row), tuple(epochs), *lines)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def ranks(block: Block) -> Ranks | None:
    """The ranks of a block, best first; None for fewer than two ranked methods."""
    standings = block.standings
    ranked = sorted((row for row in block.rows if row.label in standings.ranks), key=lambda r: standings.ranks[r.label])
    if len(ranked) < 2:
        return None
    letters = [standings.letters.get(row.label, "") for row in ranked]
    members: dict[str, list[int]] = {}
    for place, text in enumerate(letters):
        for letter in text.split():
            members.setdefault(letter, []).append(place)
    groups = sorted((len(letter), letter, tuple(places)) for letter, places in members.items() if len(places) > 1)
    methods = ((_name(row), standings.ranks[row.label], text) for row, text in zip(ranked, letters, strict=True))
    return Ranks(tuple(methods), tuple((letter, places) for _, letter, places in groups))


def digest(shown: Shown) -> str:
    """sha256 of what a plot shows."""
    content = [DRAWING, type(shown).__name__, asdict(shown)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_mark(digest: str) -> str:
    """The comment a plot starts with."""
    return f"<!-- drawn from data of sha256 {digest} -->"


def plot_digest(svg: str) -> str | None:
    """The digest of the data an SVG was drawn from; None if it does not say so."""
    found = re.match(digest_mark("([0-9a-f]{64})"), svg)
    return found and found[1]
