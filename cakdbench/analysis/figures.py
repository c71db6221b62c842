"""Draw analyses: matrices of numbers, and maps beside the images they are of."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from cakdbench.reports.figures import INK, STYLE, WIDTH

FORMATS = ("png", "svg")
MOST = 8
"""Images in one figure of maps."""


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; return the files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{form}") for form in FORMATS]
    with style.context(["default", STYLE]):
        for path in paths:
            figure.savefig(path, dpi=200)
    return paths


def matrix_figure(
    frame: pd.DataFrame, title: str, axes_names: tuple[str, str], unit: str, limits: tuple[float, float] | None = None
) -> Figure:
    """Draw a frame of numbers as coloured cells with their values.

    Args:
        axes_names: what the rows and the columns are.
        unit: of the colour bar.
        limits: of the colours; None for those of the values.
    """
    down, across = frame.shape
    with style.context(["default", STYLE]):
        beside, below = (max(map(len, map(str, names))) for names in (frame.index, frame.columns))
        size = max(3.6, 1.4 + 0.07 * beside + 0.5 * across), max(2.6, 1.0 + 0.05 * below + 0.34 * down)
        figure = Figure(layout="constrained", figsize=size)
        axes = figure.subplots()
        values = frame.to_numpy(dtype=float)
        known = values[~np.isnan(values)]
        low, high = limits or ((known.min(), known.max()) if len(known) else (0.0, 1.0))
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        axes.set_yticks(range(down), frame.index)
        axes.set_xticks(range(across), frame.columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set(ylabel=axes_names[0], xlabel=axes_names[1])
        figure.suptitle(textwrap.fill(title, int(13 * size[0])), size=8.5)
        axes.grid(False)
        digits = 2 if high <= 1 else 1
        for y, x in np.ndindex(down, across):
            dark = (values[y, x] - low) / max(high - low, 1e-9) <= 0.6  # a missing value has no colour behind it
            text = "–" if np.isnan(values[y, x]) else f"{values[y, x]:.{digits}f}"
            axes.text(x, y, text, ha="center", va="center", size=7, color="white" if dark else INK)
        figure.colorbar(image, ax=axes, label=unit)
    return figure


def maps_figure(pictures: Tensor, maps: Mapping[str, Tensor], title: str, unit: str) -> Figure:
    """Draw a row an image: the image, then each map `(B, H, W)` stretched over it, all on one scale a map's column.

    Args:
        pictures: `(B, 3, S, S)` from 0 to 1; at most `MOST` are drawn.
        maps: by what stands above the column.
    """
    pictures = pictures[:MOST]
    across = 1 + len(maps)
    with style.context(["default", STYLE]):
        width = max(3.6, min(1.5 * across, WIDTH), 0.95 * across)
        figure = Figure(layout="constrained", figsize=(width, 1.0 + width / across * len(pictures)))
        grid = figure.subplots(len(pictures), across, squeeze=False)
        _column(grid[:, 0], "image", [picture.permute(1, 2, 0).numpy() for picture in pictures])
        for place, (name, values) in enumerate(maps.items(), 1):
            _column(grid[:, place], name, _scaled(values[: len(pictures)]))
        shown = grid[0, -1].images[0] if maps else None
        if shown:
            figure.colorbar(shown, ax=grid, label=unit, location="bottom", shrink=0.5, aspect=40)
        figure.suptitle(title, size=9)
    return figure


def _scaled(values: Tensor) -> list[np.ndarray]:
    """Return maps whose greatest value, over all images of the column, is 1."""
    return list((values / values.max().clamp(min=1e-12)).cpu().numpy())


def _column(axes: Iterable[Any], name: str, pictures: Sequence[np.ndarray]) -> None:
    for number, (place, picture) in enumerate(zip(axes, pictures, strict=True)):
        place.imshow(picture, cmap="magma", vmin=0, vmax=1, extent=(0, 1, 0, 1))
        place.set_axis_off()
        place.set_title("" if number else name, size=7)
