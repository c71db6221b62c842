"""The plots of a board: their numbers, with a digest, and a caption; `figures` draws them, only when asked."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean

import numpy as np
import pandas as pd

from cakdbench.records import Record
from cakdbench.reports.blocks import BASELINES, SCRATCH, Block, BoardResults, Row, Score
from cakdbench.reports.board import Plot
from cakdbench.reports.text import points
from cakdbench.results.stats import ALPHA

DRAWING = 1
"""Part of every digest: raise it when a plot is drawn differently, so that pictures drawn before are stale."""
REFUSED = "refused"
LEADERS = 5
"""How many methods beside the baselines stand out among the learning curves."""
DRAWN_EPOCHS = 50
"""The most points of one learning curve."""
SAME_WAY = ("device", "processes", "threads", "compiled", "channels_last")
"""What two runs have in common whose times can be compared."""
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
    return Heat(tuple(block.columns[place].head for place in places), tuple(map(_name, rows)), cells)


def _heat_cell(score: Score) -> float | str | None:
    return REFUSED if score.gain is None and score.refusal is not None else score.gain


def costs(block: Block) -> Costs | None:
    """Return gain and cost of every method that has both, scratch first; None if none has."""
    scratch, *others = block.rows
    places = [(_name(scratch), 1.0, 0.0, True)]
    for row in others:
        ratios = [ratio for score in row.scores for ratio in _cost_ratios(score)]
        if row.gains and ratios:
            cost = round(geometric_mean(ratios), 6)
            places.append((_name(row), cost, row.average_gain, len(row.gains) == len(row.scores)))
    front = pareto_front([(cost, gain) for _, cost, gain, whole in places if whole])
    points = (Cost(*place, front=place[3] and place[1:3] in front) for place in places)
    return Costs(tuple(points)) if len(places) > 1 else None


def _cost_ratios(score: Score) -> list[float]:
    """Return scratch's speed to the method's, a seed that ran in the same way: another device's time says nothing."""
    scratch = score.column.runs[score.column.runs["method"] == SCRATCH]
    both = score.runs.merge(scratch, on=["seed", *SAME_WAY])
    speeds = zip(both["images_per_second_x"], both["images_per_second_y"])
    return [base / own for own, base in speeds if min(own, base) > 0]


def pareto_front(points: Collection[tuple[float, float]]) -> set[tuple[float, float]]:
    """Return the points (cost, gain) that no other beats: at least as good in both, better in one."""

    def is_beaten(cost: float, gain: float) -> bool:
        return any(other != (cost, gain) and other[0] <= cost and other[1] >= gain for other in points)

    return {point for point in points if not is_beaten(*point)}


def curves(block: Block) -> Curves | None:
    """Return the learning curves of a block; a curve needs two epochs with test accuracy in all of its seeds."""
    panels = []
    for place, column in enumerate(block.columns):
        lines = tuple(curve for row in block.rows if (curve := _curve(row, row.scores[place].records)))
        if lines:
            panels.append((column.name, lines))
    baselines = tuple(_name(row) for row in block.rows if row.label in BASELINES)
    leaders = [_name(row) for row in block.rows if row.label not in BASELINES and row.gains][:LEADERS]
    return Curves(baselines, tuple(leaders), tuple(panels)) if panels else None


def _curve(row: Row, records: Iterable[Record]) -> Curve | None:
    seeds = {record.key: {line.epoch + 1: line.top1 for line in record.history} for record in records}
    runs = pd.DataFrame(seeds, dtype=float)
    runs = runs[np.isfinite(runs).all(axis=1)].sort_index()
    if len(runs) < 2:
        return None
    step = -(-len(runs) // DRAWN_EPOCHS)
    runs = runs[::-step][::-1]  # thinned from the end, so that the last epoch stays
    lines = (tuple(values.round(4).tolist()) for values in (runs.mean(axis=1), runs.min(axis=1), runs.max(axis=1)))
    return Curve(_name(row), tuple(runs.index.tolist()), *lines)


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
