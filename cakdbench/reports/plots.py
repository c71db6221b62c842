"""The plots of a board, each with the digest of its numbers: drawn only when asked for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cakdbench.reports.board import Block, Board
from cakdbench.reports.drawing import draw
from cakdbench.reports.plotted import (
    Costs,
    Curves,
    Heat,
    Ranks,
    Shown,
    costs,
    curves,
    digest,
    heat,
    plot_digest,
    ranks,
)
from cakdbench.reports.text import points
from cakdbench.results.stats import ALPHA

__all__ = [
    "Plot",
    "block_plots",
    "board_plots",
    "critical_difference",
    "gain_against_cost",
    "gain_heatmap",
    "learning_curves",
    "plot_digest",
]

NUMBERS: Mapping[str, Callable[[Block], Shown | None]] = {"gain": heat, "cost": costs, "curves": curves, "ranks": ranks}
"""Last part of a plot's name to what it shows."""
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


@dataclass(frozen=True)
class Plot:
    """A picture of a board.

    Attributes:
        name: of its file.
        caption: how to read it. alt: what it shows, in words.
        digest: of the numbers, the same as `plot_digest` of what `draw` returns.
        draw: makes the SVG.
    """

    name: str
    caption: str
    alt: str
    digest: str
    draw: Callable[[], str]


def board_plots(board: Board) -> dict[str, Plot]:
    """The plots of a board by name."""
    return {plot.name: plot for block in board.blocks for plot in block_plots(board, block)}


def block_plots(board: Board, block: Block) -> list[Plot]:
    """The plots of one block of a board, those that have something to show."""
    several = len({other.dataset for other in board.blocks}) > 1
    parts = [board.name, *([block.dataset] if several else []), block.precision]
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(parts))
    heading = board.heading(block)
    found = {kind: shown for kind, numbers in NUMBERS.items() if (shown := numbers(block))}
    return [_plot(f"{stem}-{kind}.svg", kind, shown, heading) for kind, shown in found.items()]


def _plot(name: str, kind: str, shown: Shown, heading: str) -> Plot:
    alt = _in_words(shown)
    caption = f"{heading}. {CAPTIONS[kind]}" if heading else CAPTIONS[kind]
    return Plot(name, caption, alt, digest(shown), lambda: draw(shown, alt))


def _in_words(shown: Shown) -> str:
    match shown:
        case Heat():
            return f"Heatmap of the gains of {len(shown.methods)} methods on {len(shown.pairs)} pairs."
        case Costs():
            front = [f"{p.method} {points(p.gain, signed=True)} at {p.cost:.2f}×" for p in shown.points if p.front]
            return (
                f"Gain against training time of {len(shown.points)} methods; on the Pareto front: {', '.join(front)}."
            )
        case Curves():
            leaders = f"; highlighted: {', '.join(shown.leaders)}" if shown.leaders else ""
            return f"Learning curves on {len(shown.panels)} pairs{leaders}."
        case Ranks():
            order = ", ".join(f"{method} {rank:.2f}" for method, rank, _ in shown.methods)
            return f"Methods by average rank: {order}."


def gain_heatmap(block: Block) -> str | None:
    """Gains by method and pair as SVG; None without any."""
    return _svg(heat(block))


def gain_against_cost(block: Block) -> str | None:
    """Average gain against training time as SVG, with the Pareto front; None if no method has both."""
    return _svg(costs(block))


def learning_curves(block: Block) -> str | None:
    """Test accuracy by epoch as SVG; None without histories of two epochs."""
    return _svg(curves(block))


def critical_difference(block: Block) -> str | None:
    """Average ranks and groups as SVG; None for fewer than two ranked methods."""
    return _svg(ranks(block))


def _svg(shown: Shown | None) -> str | None:
    return shown and draw(shown, _in_words(shown))
