"""The plots of a board: frames of numbers with a digest, and captions; `figures` draws them, only when asked."""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import geometric_mean

import numpy as np
import pandas as pd

from cakdbench.records import Record
from cakdbench.reports.blocks import BASELINES, SCRATCH, Block, BoardResults, Row, Score
from cakdbench.reports.board import Plot
from cakdbench.reports.text import points, prose
from cakdbench.results.stats import ALPHA

DRAWING = 2
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


def _name(row: Row) -> str:
    """Return the title, cut in the middle if it is long."""
    return row.title if len(row.title) <= LONG else f"{row.title[:20]}…{row.title[21 - LONG :]}"


def heat(block: Block) -> pd.DataFrame | None:
    """Return gains over scratch in points, methods by pairs, without those that have none.

    None stands where not measured, `REFUSED` where none can be.
    """
    rows = [row for row in block.rows if row.gains]
    places = [p for p in range(len(block.columns)) if any(row.scores[p].gain is not None for row in rows)]
    scores = ([row.scores[place] for place in places] for row in rows)
    cells = [[s.gain if s.gain is not None or s.refusal is None else REFUSED for s in own] for own in scores]
    heads = [block.columns[place].head for place in places]
    return pd.DataFrame(cells, list(map(_name, rows)), heads, dtype=object) if rows else None


def costs(block: Block) -> pd.DataFrame | None:
    """Return gain and cost of every method that has both, scratch first; None if no other has.

    Columns: method; cost, training time per image as a multiple of that of scratch; gain, average over the pairs in
    points; whole, if all pairs count in it (if not, it cannot be compared); front, if no compared method gains as much
    for less, or more for as much.
    """
    scratch, *others = block.rows
    places = [(_name(scratch), 1.0, 0.0, True)]
    for row in others:
        ratios = [ratio for score in row.counted for ratio in _cost_ratios(score)]
        if row.average_gain is not None and ratios:
            cost = round(geometric_mean(ratios), 6)
            places.append((_name(row), cost, row.average_gain, row.is_whole and not row.is_claim))
    front = pareto_front([(cost, gain) for _, cost, gain, whole in places if whole])
    rows = [(*place, place[3] and place[1:3] in front) for place in places]
    return pd.DataFrame(rows, columns=["method", "cost", "gain", "whole", "front"]) if len(rows) > 1 else None


def _cost_ratios(score: Score) -> list[float]:
    """Return scratch's speed to the method's, a seed that ran in the same way: another device's time says nothing."""
    runs = score.column.runs if score.is_claimed else score.column.settled
    scratch = runs[runs["method"] == SCRATCH]
    both = score.runs.merge(scratch, on=["seed", *SAME_WAY])
    speeds = zip(both["images_per_second_x"], both["images_per_second_y"])
    return [base / own for own, base in speeds if min(own, base) > 0]


def pareto_front(points: Collection[tuple[float, float]]) -> set[tuple[float, float]]:
    """Return the points (cost, gain) that no other beats: at least as good in both, better in one."""
    beaten = {
        (cost, gain)
        for cost, gain in points
        for other in points
        if other != (cost, gain) and other[0] <= cost and other[1] >= gain
    }
    return set(points) - beaten


def curves(block: Block) -> pd.DataFrame | None:
    """Return the learning curves of a block; a curve needs two epochs with test accuracy in all of its seeds.

    Columns: pair, label, method; look, the place among the methods that stand out (baselines, then those of the
    greatest average gains), -1 for others; epoch, from 1; mean, low and high, accuracy in percent over the seeds.
    """
    leaders = [row.label for row in block.rows if row.label not in BASELINES and row.gains][:LEADERS]
    looks = {label: look for look, label in enumerate([*BASELINES, *leaders])}
    lines = []
    for column in block.columns:
        for row in block.rows:
            facts = {"pair": column.name, "label": row.label, "method": _name(row), "look": looks.get(row.label, -1)}
            records = [record for record in column.records if record.label == row.label]
            lines += [facts | epoch for epoch in (_curve(records) if records else [])]
    return pd.DataFrame(lines) if lines else None


def _curve(records: Iterable[Record]) -> list[dict[str, float]]:
    """Return a curve by epoch, thinned from the end, so that the last epoch stays; nothing for less than two."""
    seeds = {record.key: {line.epoch + 1: line.top1 for line in record.history} for record in records}
    runs = pd.DataFrame(seeds, dtype=float)
    runs = runs[np.isfinite(runs).all(axis=1)].sort_index()
    runs = runs[:: -max(1, -(-len(runs) // DRAWN_EPOCHS))][::-1] if len(runs) > 1 else runs[:0]
    values = {"mean": runs.mean(axis=1), "low": runs.min(axis=1), "high": runs.max(axis=1)}
    return pd.DataFrame(values).round(4).rename_axis("epoch").reset_index().to_dict("records")


def ranks(block: Block) -> pd.DataFrame | None:
    """Return method, rank and letters of the ranked methods, best first; None for fewer than two."""
    rank, letters = block.standings.ranks, block.standings.letters
    ranked = sorted((row for row in block.rows if row.label in rank), key=lambda row: rank[row.label])
    rows = [(_name(row), rank[row.label], letters.get(row.label, "")) for row in ranked]
    return pd.DataFrame(rows, columns=["method", "rank", "letters"]) if len(rows) > 1 else None


NUMBERS: Mapping[str, Callable[[Block], pd.DataFrame | None]] = {
    "gain": heat,
    "cost": costs,
    "curves": curves,
    "ranks": ranks,
}
"""Kind of a plot, the last part of its name, to what makes its numbers."""
CAPTIONS = prose("board", alpha=ALPHA)


def board_plots(results: BoardResults) -> dict[str, Plot]:
    """Return the plots of a board by name, those that have something to show."""
    return {plot.name: plot for block in results.blocks for plot in _block_plots(results, block)}


def _block_plots(results: BoardResults, block: Block) -> Iterable[Plot]:
    several = len({other.dataset for other in results.blocks}) > 1
    parts = [results.name, *([block.dataset] if several else []), block.precision]
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(parts))
    heading = results.heading(block)
    for kind, numbers in NUMBERS.items():
        if (frame := numbers(block)) is not None:
            caption = ". ".join(filter(None, [heading, *CAPTIONS[kind]]))
            drawing = functools.partial(draw, kind, frame)
            yield Plot(f"{stem}-{kind}.svg", caption, in_words(kind, frame), digest(kind, frame), drawing)


def in_words(kind: str, frame: pd.DataFrame) -> str:
    """Return what a plot shows, for those who cannot see it."""
    match kind:
        case "gain":
            return f"Heatmap of the gains of {len(frame)} methods on {len(frame.columns)} pairs."
        case "cost":
            best = frame[frame["front"]].itertuples()
            front = ", ".join(f"{row.method} {points(row.gain, signed=True)} at {row.cost:.2f}×" for row in best)
            return f"Gain against training time of {len(frame)} methods; on the Pareto front: {front}."
        case "curves":
            leaders = frame[frame["look"] >= len(BASELINES)].sort_values("look", kind="stable")["method"].unique()
            highlighted = f"; highlighted: {', '.join(leaders)}" if len(leaders) else ""
            return f"Learning curves on {frame['pair'].nunique()} pairs{highlighted}."
    return f"Methods by average rank: {', '.join(f'{row.method} {row.rank:.2f}' for row in frame.itertuples())}."


def digest(kind: str, frame: pd.DataFrame) -> str:
    """Return the sha256 of a plot's kind and numbers."""
    content = [DRAWING, kind, frame.to_dict("split")]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def draw(kind: str, frame: pd.DataFrame) -> str:
    """Return a plot as SVG, starting with the digest of its numbers."""
    from cakdbench.reports.figures import figure_svg  # matplotlib takes half a second to import

    return "\n".join([digest_mark(digest(kind, frame)), figure_svg(kind, frame, in_words(kind, frame))])


def digest_mark(digest: str) -> str:
    """Return the comment a plot starts with."""
    return f"<!-- drawn from data of sha256 {digest} -->"


def plot_digest(svg: str) -> str | None:
    """Return the digest of the data an SVG was drawn from; None if it does not say so."""
    match = re.match(digest_mark("([0-9a-f]{64})"), svg)
    return match and match[1]
