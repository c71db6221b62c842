"""Plots as SVG, drawn by matplotlib from nothing but their numbers.

Text stays text, for readers and for search; equal numbers give equal bytes under one version of matplotlib.
"""

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from cakdbench.reports.text import REFUSED, points

WIDTH = 7.2
"""Inches; 691 pixels in a browser."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cakdbench",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
INK, GREY, PALE = "#222222", "#767676", "#c4c4c4"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Of Okabe and Ito: told apart by the colour-blind."""
ANGLES = np.deg2rad(np.arange(0, 360, 15))
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
OFFSETS = np.concatenate([radius * CIRCLE for radius in (8, 14, 22, 32, 44, 58)]).round(3) + 0.0
"""Where a label may stand to its point, in points of length, `(places, 2)`."""
LOOKS = [*({"color": INK, "ls": line} for line in ("dashed", "dotted")), *({"color": colour} for colour in COLOURS)]
"""How the methods that stand out are drawn: baselines black and broken, the others in colours."""
OTHERS = "other methods"


def figure_svg(kind: str, frame: pd.DataFrame, title: str) -> str:
    """Return the SVG of a plot; its title says the numbers in words."""
    with style.context(["default", STYLE]):
        figure = Figure(layout="constrained")
        DRAWINGS[kind](frame, figure)
        content = io.StringIO()
        facts = dict.fromkeys(("Creator", "Date", "Format", "Type")) | {"Title": title}
        figure.savefig(content, format="svg", metadata=facts)
    svg = content.getvalue()
    # Paths rounded to a hundredth of a point take half the size, and no eye sees it.
    short = functools.partial(re.sub, r"(\.\d\d)\d+", r"\1")
    return re.sub(r' d="[^"]*"', lambda path: short(path[0]), svg[svg.index("<svg") :])


def _heat(frame: pd.DataFrame, figure: Figure) -> None:
    down, across = frame.shape
    figure.set_size_inches(WIDTH, 1.1 + 0.23 * down)
    axes = figure.subplots()
    gains = [abs(cell) for cell in frame.to_numpy().flat if isinstance(cell, float)]
    limit = max(1.0, float(np.quantile(gains, 0.9)))
    for y, x in np.ndindex(down, across):
        _heat_cell(axes, x, y, frame.iat[y, x], limit, size=8.5 if across <= 10 else 6.5)
    axes.set(xlim=(0, across), ylim=(down, 0))
    wide = across > 4
    heads = frame.columns if wide else frame.columns.str.replace(" → ", " →\n")
    turned = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if wide else {}
    axes.set_xticks(np.arange(across) + 0.5, heads, **turned)
    axes.set_yticks(np.arange(down) + 0.5, frame.index)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _heat_cell(axes: Axes, x: int, y: int, gain: float | str | None, limit: float, size: float) -> None:
    measured = isinstance(gain, float)
    colour = colormaps["PuOr_r"](0.5 + 0.42 * max(-1.0, min(1.0, gain / limit))) if measured else "white"
    hatch = {} if measured else {"hatch": "////", "ec": PALE}
    axes.add_patch(Rectangle((x, y), 1, 1, fc=colour, lw=0, **hatch))
    axes.add_patch(Rectangle((x, y), 1, 1, fill=False, ec="white", lw=1.5))
    text = points(gain, signed=True) if measured else REFUSED if gain else ""
    dark = measured and np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center_baseline", size=size, color="white" if dark else INK)


def _costs(frame: pd.DataFrame, figure: Figure) -> None:
    figure.set_size_inches(WIDTH, 4.6)
    axes = figure.subplots()
    floor = _cost_frame(axes, frame["cost"], frame["gain"])
    front = sorted(zip(frame["cost"][frame["front"]], frame["gain"][frame["front"]]))
    axes.step(*zip(*front, strict=True), where="post", color=COLOURS[1], lw=1.3, zorder=1, gid="front")
    labels = {}
    for point in frame.itertuples():
        below = point.gain < floor
        place = (point.cost, max(point.gain, floor), point.Index)
        labels[place] = f"{point.method} ({points(point.gain, signed=True)})" if below else point.method
        colour = COLOURS[1] if point.front else COLOURS[0]
        look = {"color": colour, "mfc": colour if point.whole else "white", "gid": f"point-{point.Index}"}
        axes.plot(*place[:2], "v" if below else "o", ms=6, **look)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    corners = [(right[0], left[1]) for left, right in pairwise(front)]
    _place_labels(axes, labels, [(*front, *corners), [(front[0][0], 0.0), (max(axes.get_xlim()), 0.0)]])


def _cost_frame(axes: Axes, costs: pd.Series, gains: pd.Series) -> float:
    """Set up the axes; return the least gain in the frame, no further below 0 than the greatest is above."""
    top = gains.max()
    floor = max(gains.min(), -max(top, 1.0))
    room = 0.08 * (top - floor + 0.5)
    axes.set(xscale="log", xlabel="training time per image, as a multiple of that of scratch")
    axes.set_xticks((1, 1.2, 1.5, 2, 3, 5) if costs.max() < 8 else (1, 2, 5, 10, 20, 50, 100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(ylabel="average gain, points", ylim=(floor - room, top + room))
    axes.set(xlim=(costs.min() / 1.08, costs.max() * 1.2))
    axes.axhline(0, color=GREY, lw=0.8)
    return floor


def _place_labels(axes: Axes, labels: dict[tuple[float, ...], str], lines: list[Sequence[tuple[float, float]]]) -> None:
    """Write each text near its point, where it covers as little as possible of other texts, points and lines."""
    spots = axes.transData.transform([place[:2] for place in labels])
    corners = [axes.transData.transform(sorted(line)) for line in lines]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    taken += [(*np.minimum(a, b) - 1, *np.maximum(a, b) + 1) for line in corners for a, b in pairwise(line)]
    for (place, text), spot in sorted(zip(labels.items(), spots, strict=True), key=lambda label: -label[0][0][1]):
        at_point = {"xytext": (0, 0), "textcoords": "offset points"}
        label = axes.annotate(text, place[:2], **at_point, size=8, color=INK, va="center")
        boxes = _boxes(spot, axes.figure.dpi / 72, label.get_window_extent())
        best = int(np.argmin(_covered(boxes, np.array(taken), axes.bbox.extents) + 0.4 * np.hypot(*OFFSETS.T)))
        offset = tuple(OFFSETS[best].tolist())
        label.set(position=offset, ha="left" if offset[0] >= 0 else "right")
        taken.append(boxes[best])
        if math.hypot(*offset) > 14:
            leader = {"arrowstyle": "-", "color": PALE, "lw": 0.7}
            axes.annotate("", place[:2], xytext=offset, textcoords="offset points", arrowprops=leader)


def _boxes(spot: np.ndarray, scale: float, extent: Bbox) -> np.ndarray:
    """Return left, bottom, right and top of a label of some extent at each offset, in pixels, `(places, 4)`."""
    x, y = (spot + OFFSETS * scale).T
    left = np.where(OFFSETS[:, 0] >= 0, x, x - extent.width)
    return np.stack([left, y - extent.height / 2, left + extent.width, y + extent.height / 2], axis=1)


def _covered(boxes: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return how many square pixels of each box lie on others; many if it leaves the frame, `(places,)`."""
    low, high = np.maximum(boxes[:, None, :2], taken[:, :2]), np.minimum(boxes[:, None, 2:], taken[:, 2:])
    overlap = (high - low).clip(0).prod(axis=2).sum(axis=1)
    inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
    return overlap + np.where(inside, 0, 1e4)


def _curves(frame: pd.DataFrame, figure: Figure) -> None:
    panels = list(frame.groupby("pair", sort=False))
    across = min(len(panels), 2 if len(panels) <= 4 else 3)
    down = -(-len(panels) // across)
    figure.set_size_inches(WIDTH, 0.8 + 2.4 * down)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for place, (axes, (pair, lines)) in enumerate(zip(grid, panels, strict=False)):
        for _, line in lines.sort_values("look", kind="stable").groupby(["look", "label"], sort=False):
            _curve(axes, line)
        axes.set_title(pair, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        outstanding = lines[lines["look"] >= 0]
        axes.set_ylim(bottom=(outstanding if len(outstanding) else lines)["low"].min() - 2)
        axes.set(xlabel="epoch", ylabel="" if place % across else "test accuracy, %")
    for axes in grid[len(panels) :]:
        axes.remove()
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {text: handle for handle, text in pairs}
    names = frame[frame["look"] >= 0].sort_values("look", kind="stable")["method"].unique()
    order = [text for text in (*names, OTHERS) if text in handles]
    figure.legend([handles[text] for text in order], order, loc="outside lower center", ncols=4)


def _curve(axes: Axes, line: pd.DataFrame) -> None:
    look = line["look"].iloc[0]
    if look < 0:
        axes.plot(line["epoch"], line["mean"], color=PALE, lw=0.8, label=OTHERS)
        return
    axes.plot(line["epoch"], line["mean"], lw=1.4, label=line["method"].iloc[0], **LOOKS[look])
    axes.fill_between(line["epoch"], line["low"], line["high"], alpha=0.12, lw=0, color=LOOKS[look]["color"])


def _ranks(frame: pd.DataFrame, figure: Figure) -> None:
    count, half, bars = len(frame), -(-len(frame) // 2), groups(frame)
    texts = [" ".join(filter(None, [row.method, f"{row.rank:.2f}", row.letters])) for row in frame.itertuples()]
    first_row = 0.8 + len(bars)
    height = first_row + 1.3 * half
    figure.set_size_inches(WIDTH, 0.55 + 0.15 * height)
    axes = figure.subplots()
    side = min(0.4, 0.03 + 0.0085 * max(map(len, texts)))
    margin = count * side / (1 - 2 * side)
    axes.set(xlim=(1 - margin, count + margin), ylim=(height, -2.4))
    axes.axis("off")
    axes.plot([1, count], [0, 0], color=INK, lw=1.2)
    for tick in range(1, count + 1, 1 if count <= 20 else 2):
        axes.plot([tick, tick], [0, -0.35], color=INK, lw=1)
        axes.text(tick, -0.5, str(tick), ha="center", va="bottom")
    axes.text((1 + count) / 2, -1.7, "average rank (1 is best)", ha="center", va="bottom", color=GREY)
    for place, (text, rank) in enumerate(zip(texts, frame["rank"], strict=True)):
        left = place < half
        row = first_row + 1.3 * (place if left else count - 1 - place)
        end = 0.5 if left else count + 0.5
        axes.plot([rank, rank, end], [0, row, row], color="#a0a0a0", lw=0.8, solid_joinstyle="miter")
        _beside(axes, text, end, row, left)
    for depth, (letter, places) in enumerate(bars.items()):
        members = frame["rank"].iloc[places]
        style = {"color": COLOURS[0], "lw": 2.2, "ms": 4.5, "zorder": 3, "gid": f"group-{letter}"}
        axes.plot(members, [0.9 + depth] * len(members), "o-", **style)
        _beside(axes, letter, min(members), 0.9 + depth, left=True, gap=6, color=COLOURS[0], weight="bold")


def groups(ranked: pd.DataFrame) -> dict[str, list[int]]:
    """Return the letters that two or more methods have, each with the places of these methods."""
    letters = ranked["letters"].reset_index(drop=True).str.split().explode().dropna()
    members = sorted(letters.groupby(letters).groups.items(), key=lambda item: (len(item[0]), item[0]))
    return {letter: list(places) for letter, places in members if len(places) > 1}


def _beside(axes: Axes, text: str, x: float, y: float, left: bool, gap: float = 3, **look: Any) -> None:
    """Write text at a gap, in points of length, left or right of a place."""
    side = {"xytext": (-gap if left else gap, 0), "ha": "right" if left else "left"}
    axes.annotate(text, (x, y), textcoords="offset points", va="center_baseline", **side, **look)


DRAWINGS: dict[str, Callable[[pd.DataFrame, Figure], None]] = {
    "gain": _heat,
    "cost": _costs,
    "curves": _curves,
    "ranks": _ranks,
}
