"""Cells: the runs of a method on a pair over their seeds. Every page takes its numbers from here."""

import os
import warnings
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from cakdbench.published.ledger import accuracies
from cakdbench.results.frame import typed_frame
from cakdbench.results.predictions import CorrectAnswers
from cakdbench.results.ranking import BASELINES, PAIR, Answers, claimed, is_complete, standings

BASELINE = BASELINES[0]
"""The method that gains are measured from."""
BLOCK = ["dataset", "precision"]
"""The columns that keep apart what is never ranked together."""

CELL_TYPES = {
    **dict.fromkeys(("method", "variant", "teacher", "student", "pair", "dataset", "recipe", "precision"), "str"),
    **{"n": "int64", "seeds": "str", "trials": "int64"},
    **dict.fromkeys(("mean", "sd", "gain", "average_gain", "rank"), "float64"),
    **{"letters": "str", "level": "bool", "unstable": "bool"},
    **dict.fromkeys(("top5", "optimistic", "ema"), "float64"),
}
"""The columns of `cells_frame` and their types, in order."""


def summarize(runs: pd.DataFrame, data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return the cells of runs, a row a method on a pair under a recipe and a precision; excluded runs do not count.

    Runs without teacher (scratch) count for every pair of their student.

    Columns:
        method, variant, teacher, student, pair, dataset, recipe, precision: of the cell.
        n, seeds: how many runs, and their seeds. trials: of the search for its settings; 0: there was none.
        mean, sd: of top-1 over the seeds; a single run has no sd.
        gain: over the scratch student of the same recipe, mean over the seeds that both have.
        average_gain, rank, letters: of the method over all pairs of its dataset and precision. Ranks (1 is best) are
            averages, over the pairs on which scratch, kd and a further method have the rules' three seeds, of the
            methods with these on all such pairs. Methods that share a letter cannot be told apart in average accuracy:
            paired tests on the stored predictions, Holm's correction at 5 %.
        level: True for the best of a pair and what cannot be told apart from it.
        unstable: True where a method's seeds differ far more than those of the others on the pair: it is not tested.
        top5, optimistic, ema: means of top-5, of the best epochs, and of the averaged weights.
        printed: the papers' numbers for method and pair with their sources; `load_published` has them as numbers.

    Args:
        runs: of `load_results`, or part of it: `summarize(runs[runs.recipe == "demo"])`.
        data_dir: where datasets lie, for test labels that are not beside the results.
    """
    cells = cells_frame(runs, CorrectAnswers(runs, data_dir))
    if len(runs) and cells.empty:
        reason = runs["excluded"].iloc[0]
        warnings.warn(
            f"none of the {len(runs)} runs counts; the first: {reason}; see the column excluded", stacklevel=2
        )
    return cells.assign(printed=_printed_texts(cells))


def cells_frame(runs: pd.DataFrame, answers: Answers = lambda key: None) -> pd.DataFrame:
    """Return the cells without the papers' numbers, see `summarize`.

    Args:
        answers: the test images that a run classified right, by its key; without it there are no letters.
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


def add_gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of one pair with `gain`: over the scratch run of the same seed, missing where there is none.

    A scratch run that is merely claimed gives no gain but to claimed runs.
    """
    is_scratch, is_claimed = runs["method"] == BASELINE, claimed(runs)
    top1 = dict(zip(runs["seed"][is_scratch], runs["top1"][is_scratch]))
    unsure = {*runs["seed"][is_scratch & is_claimed]}
    gains = (runs["top1"] - runs["seed"].map(top1)).astype(float)
    return runs.assign(gain=gains.mask(is_scratch | (runs["seed"].isin(unsure) & ~is_claimed)))


def pair_scores(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of one cell, in percent or points: n, seeds, trials, claimed, mean, sd, gain, top5, ...

    Args:
        runs: of `add_gains`, of one method; the gain is the mean over the seeds that scratch has too.
    """
    gains = runs["gain"].dropna()
    return {
        "n": len(runs),
        "claimed": bool(claimed(runs).any()),
        "seeds": " ".join(map(str, sorted(runs["seed"]))),
        "trials": int(runs["trials"].max()),
        "mean": fmean(runs["top1"]),
        "sd": stdev(runs["top1"]) if len(runs) > 1 else None,
        "gain": fmean(gains) if len(gains) else None,
        "top5": fmean(runs["top5"]),
        "optimistic": fmean(runs["optimistic_top1"]),
        "ema": fmean(runs["ema_top1"]),
    }


def method_scores(runs: pd.DataFrame, number: str = "top1") -> dict[str, dict[str, Any]]:
    """Return the numbers of each method's cell, as `pair_scores`, and whether it is `ranked`: has the rules' seeds.

    Args:
        runs: of one pair, without their gains.
        number: the column to take in the place of top-1; runs that lack it are left out.
    """
    known = add_gains(runs.assign(top1=runs[number]).dropna(subset="top1"))
    return {method: pair_scores(own) | {"ranked": is_complete(own)} for method, own in known.groupby("method")}


def settled_gains(cells: Iterable[tuple[float | None, bool]]) -> list[float]:
    """Return the gains that there are of a method's cells; those of claims where there are no other cells.

    Args:
        cells: gain of each, and whether it is merely claimed.
    """
    cells = list(cells)
    settled = [gain for gain, is_claimed in cells if not is_claimed] or [gain for gain, _ in cells]
    return [gain for gain in settled if gain is not None]


def average_gain(gains: Sequence[float]) -> float | None:
    """Return the mean of gains; None without any."""
    return fmean(gains) if gains else None


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
        own = ((other["gain"], other["claimed"]) for other in rows if other["method"] == method)
        row["average_gain"] = average_gain(settled_gains(own))
        row["rank"], row["letters"] = standing.ranks.get(method), standing.letters.get(method)
        for name, methods in (("level", standing.level), ("unstable", standing.unstable)):
            row[name] = pair in pairs and method in methods[pairs.index(pair)]
    return rows


def _pair_rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    shared = ["variant", "teacher", "student", "pair", "dataset", "recipe", "precision"]
    rows = []
    for method, cell in add_gains(runs).groupby("method"):
        rows.append({"method": method} | cell.iloc[0][shared].to_dict() | pair_scores(cell))
    return sorted(rows, key=lambda row: (-row["mean"], row["method"]))


def _printed_texts(cells: pd.DataFrame) -> pd.Series:
    """Return the papers' numbers for each cell's method and pair, as in `80.54 tas, 80.5 fofa`; empty where nothing.

    Only numbers of the family of protocols that the pair's suite is of count: others are not comparable.
    """
    from cakdbench.grid.suites import suites  # imports torch

    families = {(str(spec.pair), suite.protocol) for suite in suites().values() for spec in suite.specs}
    texts: dict[tuple[str, str], list[str]] = {}
    for row in accuracies():
        pair = f"{row.teacher}>{row.student}@{row.dataset}"
        if row.metric == "top1" and (pair, row.protocol) in families:
            texts.setdefault((row.method, pair), []).append(f"{row.value} {row.source}")
    printed = [", ".join(dict.fromkeys(texts.get(key, ()))) for key in zip(cells["method"], cells["pair"])]
    return pd.Series(printed, index=cells.index, dtype="str")
