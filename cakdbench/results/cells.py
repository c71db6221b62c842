"""Cells of runs: what the seeds of a method on a pair give together. Every page takes its numbers from here."""

from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from cakdbench.results.frame import typed_frame
from cakdbench.results.ranking import PAIR, Answers, standings

BASELINE = "scratch"
"""The method that gains are measured from."""
BLOCK = ["dataset", "precision"]
"""The columns that keep apart what is never ranked together."""

CELL_TYPES = {
    **dict.fromkeys(("method", "variant", "teacher", "student", "pair", "dataset", "recipe", "precision"), "str"),
    **{"n": "int64", "seeds": "str"},
    **dict.fromkeys(("mean", "sd", "gain", "average_gain", "rank"), "float64"),
    **{"letters": "str", "level": "bool"},
    **dict.fromkeys(("top5", "optimistic", "ema"), "float64"),
}
"""The columns of `cells_frame` and their types, in order."""


def cells_frame(runs: pd.DataFrame, answers: Answers = lambda key: None) -> pd.DataFrame:
    """Return a row a cell (method, pair, recipe, precision) with the columns of `CELL_TYPES`.

    Rank, letters and average gain are of the method over all pairs of its dataset and precision. `level` marks the best
    of a pair and what cannot be told apart from it. Runs with a value in `excluded` do not count.

    Args:
        answers: which test images a run classified right, by its key; without it there are no letters.
    """
    rows: list[dict[str, Any]] = []
    for _, block in place_on_pairs(counted_runs(runs)).groupby(BLOCK):
        rows += _block_rows(block, answers)
    return typed_frame(rows, CELL_TYPES)


def counted_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that count: those without a reason in `excluded`."""
    return runs[runs["excluded"].isna()] if "excluded" in runs else runs


def place_on_pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with those that had no teacher once for every pair of their student, which all are measured on.

    A run whose student is of no pair of the frame stays as it is.
    """
    taught, alone = runs[runs["teacher"].notna()], runs[runs["teacher"].isna()]
    shared = ["student", "dataset", "recipe", "precision"]
    pairs = taught[[*shared, "teacher", "pair"]].drop_duplicates()
    placed = alone.drop(columns=["teacher", "pair"]).merge(pairs, how="left", on=shared)
    placed["pair"] = placed["pair"].fillna(placed["student"] + "@" + placed["dataset"])
    return pd.concat([taught, placed[runs.columns]], ignore_index=True)


def pair_scores(runs: pd.DataFrame, baseline: Mapping[int, float]) -> dict[str, Any]:
    """Return what the seeds of one cell give: n, seeds, and in percent or points mean, sd, gain, top5, optimistic, ema.

    Args:
        baseline: seed to top-1 of the scratch student; the gain is the mean over the seeds that both have.
    """
    runs = runs.sort_values("seed")
    gains = [top1 - baseline[seed] for seed, top1 in zip(runs["seed"], runs["top1"]) if seed in baseline]
    return {
        "n": len(runs),
        "seeds": " ".join(map(str, runs["seed"])),
        "mean": fmean(runs["top1"]),
        "sd": stdev(runs["top1"]) if len(runs) > 1 else None,
        "gain": fmean(gains) if gains else None,
        "top5": fmean(runs["top5"]),
        "optimistic": fmean(runs["optimistic_top1"]),
        "ema": fmean(runs["ema_top1"]),
    }


def average_gain(gains: Iterable[float | None]) -> float | None:
    """Return the mean of the gains that there are; None without any."""
    known = [gain for gain in gains if gain is not None]
    return fmean(known) if known else None


def _block_rows(block: pd.DataFrame, answers: Answers) -> list[dict[str, Any]]:
    """Return the cells of one dataset and precision: pair after pair, the highest mean first."""
    taught = block[block["method"] != BASELINE]
    pairs = list(
        (taught if len(taught) else block)[PAIR].drop_duplicates().sort_values(PAIR).itertuples(index=False, name=None)
    )
    standing = standings(block, pairs, answers)
    rows = [row for _, runs in block.groupby(PAIR) for row in _pair_rows(runs)]
    for row in rows:
        method, pair = row["method"], (row["pair"], row["recipe"])
        row["average_gain"] = average_gain(other["gain"] for other in rows if other["method"] == method)
        row["rank"], row["letters"] = standing.ranks.get(method), standing.letters.get(method)
        row["level"] = pair in pairs and method in standing.level[pairs.index(pair)]
    return rows


def _pair_rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    scratch = runs[runs["method"] == BASELINE]
    baseline = dict(zip(scratch["seed"], scratch["top1"]))
    shared = ["variant", "teacher", "student", "pair", "dataset", "recipe", "precision"]
    rows = []
    for method, cell in runs.groupby("method"):
        facts = {name: cell[name].iloc[0] for name in shared}
        rows.append({"method": method} | facts | pair_scores(cell, {} if method == BASELINE else baseline))
    return sorted(rows, key=lambda row: (-row["mean"], row["method"]))
