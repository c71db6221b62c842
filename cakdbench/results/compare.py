"""Two methods beside each other: a paired test on each pair, and over all pairs together."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from cakdbench.results.cells import BLOCK, counted_runs, place_on_pairs
from cakdbench.results.frame import typed_frame
from cakdbench.results.ranking import PAIR, Answers, correct_by_seed
from cakdbench.results.stats import Correct, Difference, paired_difference, training_noise
from cakdbench.utils.errors import UsageError, unknown

COMPARISON_TYPES = {
    **dict.fromkeys(("pair", "dataset", "recipe", "precision"), "str"),
    "n": "int64",
    **dict.fromkeys(("difference", "standard_error", "degrees", "p"), "float64"),
}
"""The columns of `comparison_frame` and their types, in order."""
AVERAGE = "average"


def comparison_frame(runs: pd.DataFrame, first: str, second: str, answers: Answers) -> pd.DataFrame:
    """Return the paired difference of two methods: a row a pair that both have, then an `average` row of each block.

    See `stats.paired_difference` for the test; where predictions or labels are not at hand there is a difference and no
    test. All runs of a pair, not only those of the two methods, tell what the chance of training is worth.

    Raises:
        UsageError: a method has no runs, or the two have no pair and seed in common.
    """
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
        gaps: seed to first minus second in points, of the seeds that both have.
        correct: of the first and of the second.
    """

    def __init__(self, runs: pd.DataFrame, first: str, second: str, answers: Answers):
        of_method = dict(tuple(runs.groupby("method")))
        none = runs.iloc[:0]
        top1 = [
            dict(zip(part["seed"], part["top1"])) for part in (of_method.get(first, none), of_method.get(second, none))
        ]
        self.facts = {name: runs[name].iloc[0] for name in PAIR}
        self.gaps = {seed: top1[0][seed] - top1[1][seed] for seed in sorted(top1[0].keys() & top1[1].keys())}
        correct = {name: correct_by_seed(part, answers) for name, part in of_method.items()} if self.gaps else {}
        self.correct: tuple[Correct, Correct] = correct.get(first, {}), correct.get(second, {})
        self.noise = training_noise(correct.values())


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
