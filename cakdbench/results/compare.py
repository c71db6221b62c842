"""Two methods beside each other: a paired test on each pair, and over all pairs together."""

import os
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from cakdbench.results.cells import BLOCK, counted_runs, place_on_pairs
from cakdbench.results.frame import typed_frame
from cakdbench.results.predictions import CorrectAnswers
from cakdbench.results.ranking import PAIR, Answers, correct_by_seed
from cakdbench.results.stats import Correct, Difference, paired_difference, training_noise, unstable
from cakdbench.utils.errors import UsageError, unknown

COMPARISON_TYPES = {
    **dict.fromkeys(("pair", "dataset", "recipe", "precision"), "str"),
    "n": "int64",
    **dict.fromkeys(("difference", "standard_error", "degrees", "p"), "float64"),
}
"""The columns of `compare` and their types, in order."""
AVERAGE = "average"


def compare(
    runs: pd.DataFrame, first: str, second: str, data_dir: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Return the paired difference of two methods, first minus second: a row a pair, then their `average`.

    Both saw the same test images in the same order with the same seeds, so images and seeds are paired. The standard
    error holds the choice of the test images and the chance of training, see `stats.paired_difference`.

    Columns: pair, dataset, recipe, precision; n, the seeds that both have; difference and standard_error in points;
    degrees (of freedom, by Welch and Satterthwaite); p (two-sided, of this comparison alone). Without predictions or
    test labels at hand there is a difference and no test.

    Args:
        runs: of `load_results`; the other methods in it help to estimate the chance of training.
        data_dir: where datasets lie, for test labels that are not beside the results.

    Raises:
        UsageError: a method has no runs that count, the two are one, or they have no seed of a pair in common.
    """
    if first == second:
        raise UsageError(f"{first} and {second} are one method: name two")
    answers = CorrectAnswers(runs, data_dir)
    placed = place_on_pairs(counted_runs(runs))
    for name in (first, second):
        if name not in set(placed["method"]):
            raise unknown("method", name, placed["method"].unique())
    rows = [row for _, block in placed.groupby(BLOCK) for row in _block_rows(block, first, second, answers)]
    if not rows:
        raise UsageError(f"{first} and {second} have no pair and seed in common: run both with the same seeds")
    return typed_frame(rows, COMPARISON_TYPES)


def _block_rows(block: pd.DataFrame, first: str, second: str, answers: Answers) -> list[dict[str, Any]]:
    parts = [_PairTest(runs, first, second, answers) for _, runs in block.groupby(PAIR)]
    parts = [part for part in parts if part.gaps]
    if not parts:
        return []
    shared = {name: block[name].iloc[0] for name in BLOCK}
    rows = [part.facts | _test([part]) | {"n": len(part.gaps)} for part in parts]
    average = {"pair": AVERAGE, "n": min(len(part.gaps) for part in parts)} | _test(parts)
    return [shared | row for row in [*rows, average]]


class _PairTest:
    """The runs of one pair as a paired test of two methods needs them.

    Attributes:
        gaps: first minus second in points, by seed, of the seeds that both have.
        correct: of the first and of the second.
    """

    def __init__(self, runs: pd.DataFrame, first: str, second: str, answers: Answers):
        top1 = runs.pivot_table(index="seed", columns="method", values="top1")
        gaps = top1[first] - top1[second] if {first, second} <= set(top1) else pd.Series(dtype=float)
        self.facts = {name: runs[name].iloc[0] for name in PAIR}
        self.gaps = gaps.dropna().to_dict()
        methods = runs.groupby("method") if self.gaps else ()
        correct = {name: correct_by_seed(own, answers) for name, own in methods}
        self.correct: tuple[Correct, Correct] = correct.get(first, {}), correct.get(second, {})
        self.noise = training_noise(_alike(correct, first, second))


def _alike(correct: dict[str, Correct], first: str, second: str) -> list[Correct]:
    """Return the answers that tell of the two methods' noise: of the stable ones, or of the two if one is not."""
    wild = unstable(correct)
    names = {first, second} if wild & {first, second} else correct.keys() - wild
    return [correct[name] for name in sorted(names & correct.keys())]


def _test(parts: Sequence[_PairTest]) -> dict[str, float | None]:
    """Return the difference averaged over pairs, and the test of it if all predictions are known."""
    difference = fmean(fmean(part.gaps.values()) for part in parts)
    test: Difference | None = None
    if all(part.gaps.keys() <= part.correct[0].keys() & part.correct[1].keys() for part in parts):
        firsts, seconds = ([part.correct[side] for part in parts] for side in (0, 1))
        test = paired_difference(firsts, seconds, [part.noise for part in parts])
    if test is None:
        return {"difference": difference}
    return {"difference": difference, "standard_error": test.standard_error, "degrees": test.degrees, "p": test.p}
