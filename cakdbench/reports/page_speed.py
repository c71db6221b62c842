"""The page of measured speeds: tables in markdown, and a stacked bar plot of a step's parts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

PARTS = ("rendering", "transfer", "teacher", "student", "method", "backward", "optimizer", "ema", "engine")
"""The parts of a step, in their order."""
LANE_PARTS = PARTS[3:]
WHAT = {
    "rendering": "rendering images",
    "transfer": "transfer to the device, and finishing there",
    "teacher": "teacher, forward",
    "student": "student, forward",
    "method": "method, forward",
    "backward": "backward",
    "optimizer": "optimizer and clipping",
    "ema": "averaged weights",
    "engine": "engine (seeds, counts)",
}


def title(group: Mapping[str, Any]) -> str:
    """Return what a group is, in a line."""
    ways = [group["precision"]] + [name for name in ("compiled", "channels_last") if group[name]]
    lanes = "1 lane" if len(group["lanes"]) == 1 else f"{len(group['lanes'])} lanes"
    return f"{group['pair']}, {', '.join(way.replace('_', ' ') for way in ways)}, {lanes}"


def speed_page(groups: Iterable[Mapping[str, Any]]) -> str:
    """Return groups, as `GroupSpeed.to_json` gives them, as markdown."""
    groups = list(groups)
    parts = [_overview(groups), *(_group(group) for group in groups)]
    return "\n\n".join(parts) + "\n"


def _overview(groups: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        {
            "group": title(group),
            "trainer, images/s": _round(group["trainer"]),
            "ceiling, images/s": _round(group["ceiling"]),
            "ratio": f"{group['ratio']:.3f}",
            "rendering alone, images/s": _round(group["rendering"]),
            "of the matrix rate": _percent(group["achieved"]),
            "together saves": f"{group['together_saves']:.2f}x" if len(group["lanes"]) > 1 else "–",
            "peak memory, GB": _gigabytes(group["peak_memory_mb"]),
            "binds": group["binds"],
        }
        for group in groups
    ]
    return _table(rows)


def _group(group: Mapping[str, Any]) -> str:
    failed = [f"- {label} failed: {reason}" for label, reason in group["failed"].items()]
    return "\n\n".join(filter(None, [f"### {title(group)}", _conditions(group), _lanes(group), "\n".join(failed)]))


def _conditions(group: Mapping[str, Any]) -> str:
    images = "images of noise in the dataset's form" if group["data"] == "synthetic" else "the dataset's images"
    batch = f"local batch {group['local_batch']}, {group['accumulation']} a step"
    shared = {name: 1000 * seconds for name, seconds in _shared(group).items()}
    return (
        f"Recipe {group['recipe']}, {group['image_size']} px, {batch}, {group['workers']} rendering processes, "
        f"{images}. "
        f"One core renders {_round(group['rendering_core'])} images/s. Of a local batch: "
        + ", ".join(f"{WHAT[name]} {ms:.2f} ms" for name, ms in shared.items())
        + f"; kernels of all lanes issued in {1000 * group['issue']:.1f} ms. "
        f"Matrix rate {2 * group['matrix_rate'] / 1e12:,.2f} TFLOP/s."
    )


def _shared(group: Mapping[str, Any]) -> dict[str, float]:
    """Return seconds of a local batch of what all lanes share."""
    rendering = group["local_batch"] / group["rendering"] if group["rendering"] else 0.0
    return {"rendering": rendering, "transfer": group["transfer"], "teacher": group["teacher"]}


def _lanes(group: Mapping[str, Any]) -> str:
    own_teacher = any(lane["phases"].get("teacher") for lane in group["lanes"])
    names = (*(("teacher",) if own_teacher else ()), *LANE_PARTS)
    rows = [
        {
            "method": lane["method"],
            **{f"{name}, ms": f"{1000 * lane['phases'].get(name, 0.0):.2f}" for name in names},
            "alone, images/s": _round(lane["alone"]),
            "first step, s": f"{lane['first_step']:.2f}",
            "evaluation, images/s": _round(lane["evaluation"]),
            "checkpoint, ms": f"{1000 * lane['checkpoint']:.0f}",
            "peak memory, GB": _gigabytes(lane["peak_memory_mb"]),
        }
        for lane in group["lanes"]
    ]
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> str:
    return str(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _gigabytes(megabytes: float | None) -> str:
    return "–" if megabytes is None else f"{megabytes / 1024:.2f}"


def draw_speed(groups: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a stacked bar plot: milliseconds of one local batch by part, a bar a method and one for what they share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [group for group in groups if group["lanes"]]
    heights = [1.2 + 0.28 * (len(group["lanes"]) + 1) for group in groups] or [1.0]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(len(groups), 1), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, group in zip(axes, groups):
        _draw_group(axis, group)
    if groups:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path)


def _draw_group(axis: Any, group: Mapping[str, Any]) -> None:
    bars = [("shared by all", _shared(group)), *((lane["method"], lane["phases"]) for lane in group["lanes"])]
    names, left = [name for name, _ in bars], [0.0] * len(bars)
    for number, part in enumerate(PARTS):
        widths = [1000 * phases.get(part, 0.0) for _, phases in bars]
        axis.barh(names, widths, left=left, label=WHAT[part], color=f"C{number}", height=0.7)
        left = [start + width for start, width in zip(left, widths)]
    axis.invert_yaxis()
    axis.set_title(title(group), fontsize=9, loc="left")
    axis.set_xlabel("milliseconds of one local batch", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
