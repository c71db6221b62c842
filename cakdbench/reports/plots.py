"""The plots of a board: their numbers, with a digest, and a caption; `figures` draws them, only when asked."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean

from cakdbench.records import Conditions, Record
from cakdbench.reports.blocks import BASELINES, SCRATCH, Block, BoardResults, Row, Score
from cakdbench.reports.board import Plot
from cakdbench.reports.results_table import pair_text
from cakdbench.reports.text import points
from cakdbench.results.stats import ALPHA

DRAWING = 1
"""Part of every digest: raise it when a plot is drawn differently, so that pictures drawn before are stale."""
REFUSED = "refused"
LEADERS = 5
"""How many methods beside the baselines stand out among the learning curves."""
DRAWN_EPOCHS = 50
"""The most points of one learning curve."""
LONG = 32
"""The most characters of a method's name."""


class PlotData:
    """The numbers of a plot. Equal numbers give equal digests, which hold the names of the classes and fields below."""

    @property
    def digest(self) -> str:
        """Return the sha256 of the numbers."""
        content = [DRAWING, type(self).__name__, asdict(self)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def in_words(self) -> str:
        """Return what the plot shows, for those who cannot see it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Heat(PlotData):
    """Gains over scratch in points, `(methods, pairs)`; None where not measured, `REFUSED` where none can be."""

    pairs: tuple[str, ...]
    methods: tuple[str, ...]
    cells: tuple[tuple[float | str | None, ...], ...]

    def in_words(self) -> str:
        return f"Heatmap of the gains of {len(self.methods)} methods on {len(self.pairs)} pairs."


@dataclass(frozen=True)
class Cost:
    """A method's gain against what its training costs.

    Attributes:
        cost: training time per image, as a multiple of that of scratch.
        gain: average over the pairs, in points.
        whole: all pairs count in it; if not, it cannot be compared.
        front: no compared method gains as much for less, or more for as much.
    """

    method: str
    cost: float
    gain: float
    whole: bool
    front: bool


@dataclass(frozen=True)
class Costs(PlotData):
    """Gain and cost of each method, scratch first."""

    points: tuple[Cost, ...]

    def in_words(self) -> str:
        front = [f"{p.method} {points(p.gain, signed=True)} at {p.cost:.2f}×" for p in self.points if p.front]
        return f"Gain against training time of {len(self.points)} methods; on the Pareto front: {', '.join(front)}."


@dataclass(frozen=True)
class Curve:
    """Test accuracy in percent after some epochs (counted from 1): mean, least and greatest over the seeds."""

    method: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Curves(PlotData):
    """For each pair, its curves; titles of the baselines, and of the methods of the greatest average gains."""

    baselines: tuple[str, ...]
    leaders: tuple[str, ...]
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]

    def in_words(self) -> str:
        leaders = f"; highlighted: {', '.join(self.leaders)}" if self.leaders else ""
        return f"Learning curves on {len(self.panels)} pairs{leaders}."


@dataclass(frozen=True)
class Ranks(PlotData):
    """Methods by average rank, and the groups that cannot be told apart.

    Attributes:
        methods: title, average rank, letters.
        groups: letter, and the places in `methods` of those that have it; two or more.
    """

    methods: tuple[tuple[str, float, str], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]

    def in_words(self) -> str:
        return f"Methods by average rank: {', '.join(f'{method} {rank:.2f}' for method, rank, _ in self.methods)}."


def _name(row: Row) -> str:
    """Return the title, cut in the middle if it is long."""
    return row.title if len(row.title) <= LONG else f"{row.title[:20]}…{row.title[21 - LONG :]}"


def heat(block: Block) -> Heat | None:
    """Return the gains of a block; without the methods and the pairs that have none."""
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
    """Return gain and cost of every method that has both, scratch first; None if none has."""
    rows = [(_name(row), *cost, len(row.gains) == len(row.scores)) for row in block.rows if (cost := _cost(row))]
    if not rows:
        return None
    scratch = next(_name(row) for row in block.rows if row.label == SCRATCH)
    rows.insert(0, (scratch, 1.0, 0.0, True))
    front = pareto_front([(cost, gain) if whole else (math.inf, -math.inf) for _, cost, gain, whole in rows])
    return Costs(tuple(Cost(*row, row[-1] and place in front) for place, row in enumerate(rows)))


def _cost(row: Row) -> tuple[float, float] | None:
    """Return the multiple of scratch's training time per image, mean over pairs and seeds, and the average gain."""
    ratios = [ratio for score in row.scores for ratio in _cost_ratios(score)]
    if row.average_gain is None or not ratios:
        return None
    return round(geometric_mean(ratios), 6), row.average_gain


def _cost_ratios(score: Score) -> list[float]:
    """Return one ratio a seed that was trained in the same way as scratch's; another device's time says nothing."""
    scratch = {record.identity.seed: record.conditions for record in score.scratch}
    ratios = []
    for record in score.records:
        own, other = record.conditions, scratch.get(record.identity.seed)
        if other and _same_way(own, other) and min(own.images_per_second, other.images_per_second) > 0:
            ratios.append(other.images_per_second / own.images_per_second)
    return ratios


def _same_way(one: Conditions, other: Conditions) -> bool:
    facts = ("device", "processes", "threads", "compiled", "channels_last")
    return all(getattr(one, fact) == getattr(other, fact) for fact in facts)


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the places of the points (cost, gain) that no other beats: at least as good in both, better in one."""
    front, best = set(), -math.inf
    for cost, gain in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if gain > best:
            front |= {place for place, point in enumerate(points) if point == (cost, gain)}
            best = gain
    return front


def curves(block: Block) -> Curves | None:
    """Return the learning curves of a block; a curve needs two epochs with test accuracy in all of its seeds."""
    panels = []
    for place, column in enumerate(block.columns):
        lines = tuple(curve for row in block.rows if (curve := _curve(row, row.scores[place].records)))
        if lines:
            panels.append((pair_text(column.column, block, ", "), lines))
    baselines = tuple(_name(row) for row in block.rows if row.label in BASELINES)
    leaders = [_name(row) for row in block.rows if row.label not in BASELINES and row.gains][:LEADERS]
    return Curves(baselines, tuple(leaders), tuple(panels)) if panels else None


def _curve(row: Row, records: Iterable[Record]) -> Curve | None:
    runs = [{line.epoch + 1: line.top1 for line in r.history if _is_finite(line.top1)} for r in records]
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    if len(epochs) < 2:
        return None
    step = -(-len(epochs) // DRAWN_EPOCHS)
    epochs = epochs[::-step][::-1]  # thinned from the end, so that the last epoch stays
    values = [[run[epoch] for run in runs] for epoch in epochs]
    lines = (tuple(round(of(seeds), 4) for seeds in values) for of in (fmean, min, max))
    return Curve(_name(row), tuple(epochs), *lines)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def ranks(block: Block) -> Ranks | None:
    """Return the ranks of a block, best first; None for fewer than two ranked methods."""
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


NUMBERS: Mapping[str, Callable[[Block], PlotData | None]] = {
    "gain": heat,
    "cost": costs,
    "curves": curves,
    "ranks": ranks,
}
"""Last part of a plot's name to what makes its numbers."""
CAPTIONS = {
    "gain": "Mean gain over scratch in points, by method and pair: above scratch orange, below it purple; hatched "
    "where not measured, n/a where the method refuses the pair.",
    "cost": "Average gain over scratch against training time per image: the geometric mean, over pairs and seeds, of "
    "the ratio to scratch's time, where both ran on like devices. The pass over data and teacher, which all share, is "
    "left out; times on shared machines are noisy. Orange: the Pareto front. Hollow: not on all pairs, beyond "
    "comparison. A triangle stands for a point below the frame.",
    "curves": "Test accuracy by epoch, mean over the seeds; bands from the least to the greatest seed. In colour: the "
    "methods of the greatest average gains.",
    "ranks": "Critical-difference diagram: average rank over the pairs. A bar joins the methods with dots on it, which "
    "cannot be told apart in average accuracy (paired test over test images and seeds, Holm's correction at "
    f"{ALPHA:.0%}); its letter is that of the table. A method without a letter was not tested.",
}


def board_plots(results: BoardResults) -> dict[str, Plot]:
    """Return the plots of a board by name, those that have something to show."""
    return {plot.name: plot for block in results.blocks for plot in _block_plots(results, block)}


def _block_plots(results: BoardResults, block: Block) -> Iterable[Plot]:
    several = len({other.dataset for other in results.blocks}) > 1
    parts = [results.name, *([block.dataset] if several else []), block.precision]
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(parts))
    heading = results.heading(block)
    for kind, numbers in NUMBERS.items():
        if data := numbers(block):
            caption = f"{heading}. {CAPTIONS[kind]}" if heading else CAPTIONS[kind]
            yield Plot(f"{stem}-{kind}.svg", caption, data.in_words(), data.digest, lambda data=data: draw(data))


def draw(data: PlotData) -> str:
    """Return a plot as SVG."""
    from cakdbench.reports.figures import figure_svg  # matplotlib takes half a second to import

    return figure_svg(data)


def digest_mark(digest: str) -> str:
    """Return the comment a plot starts with."""
    return f"<!-- drawn from data of sha256 {digest} -->"


def plot_digest(svg: str) -> str | None:
    """Return the digest of the data an SVG was drawn from; None if it does not say so."""
    match = re.match(digest_mark("([0-9a-f]{64})"), svg)
    return match and match[1]
