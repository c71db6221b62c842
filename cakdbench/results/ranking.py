"""Ranks, letters and the best of each pair, for the runs of one dataset and precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pandas as pd

from cakdbench.results import stats
from cakdbench.submissions.status import CLAIMED

BASELINES = ("scratch", "kd")
"""The methods that every pair needs which ranks others."""

Answers = Callable[[str], np.ndarray | None]
"""Maps the key of a run to the test images that it classified right, `(images,)`; None where that is not known."""

PAIR = ["pair", "recipe"]
"""The columns of runs that identify a column of a board."""

SEEDS = (0, 1, 2)
"""The seeds that rank a method, all of them, see leaderboards/RULES.md."""


@dataclass(frozen=True)
class Standings:
    """Ranks and groups of methods, by their runs of `SEEDS` that are not merely claimed; without one of them: none.

    Attributes:
        ranks: average rank over the ranking pairs, of the methods measured on all of them.
        letters: methods that share one cannot be told apart in average accuracy; of the ranked methods whose
            predictions are known and that are stable on all of these pairs.
        inseparable: the pairs of those methods that cannot be told apart.
        level: for each pair, the best of the stable methods and those that cannot be told apart from it.
        unstable: for each pair, the methods whose seeds differ far more than the others' do; they are not tested.
    """

    ranks: Mapping[str, float] = field(default_factory=dict)
    letters: Mapping[str, str] = field(default_factory=dict)
    inseparable: frozenset[frozenset[str]] = frozenset()
    level: tuple[frozenset[str], ...] = ()
    unstable: tuple[frozenset[str], ...] = ()


def standings(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], answers: Answers) -> Standings:
    """Rank and group the methods of a block, over the pairs on which the baselines and a further method are complete.

    So the first run of one more pair takes no rank away.

    Args:
        runs: of one dataset and precision, each on a pair (see `cells.place_on_pairs`).
        pairs: pair and recipe of each column of the block.
    """
    runs = ranked_runs(runs)
    by_method = {name: [_of_pair(group, pair) for pair in pairs] for name, group in runs.groupby("method", sort=True)}
    known = {name: [correct_by_seed(part, answers) for part in parts] for name, parts in by_method.items()}
    whole = [{name for name, parts in by_method.items() if is_complete(parts[place])} for place in range(len(pairs))]
    places = [place for place, names in enumerate(whole) if {*BASELINES} < names]
    complete = sorted(set.intersection(*(whole[place] for place in places))) if places else []
    means = {name: [fmean(by_method[name][place]["top1"]) for place in places] for name in complete}
    columns = [_tested(known, place) for place in range(len(pairs))]
    wild = tuple(frozenset(stats.unstable(column)) for column in columns)
    stable = [{name: cell for name, cell in column.items() if name not in out} for column, out in zip(columns, wild)]
    testable = {n: [known[n][p] for p in places] for n in complete if all(n in stable[p] for p in places)}
    if not stats.one_test_set(cell for cells in testable.values() for cell in cells):
        testable = {}  # to give letters without tests would be to say that all differ
    alike = frozenset(stats.inseparable(testable))
    order = sorted(testable, key=lambda name: (-fmean(means[name]), name))
    return Standings(
        ranks=stats.average_ranks(means) if len(means) > 1 else {},
        letters=stats.letters(order, alike) if len(order) > 1 else {},
        inseparable=alike,
        level=tuple(frozenset(stats.level_with_best(column)) for column in stable),
        unstable=wild,
    )


def ranked_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that rank their method: of `SEEDS`, and not merely claimed."""
    return runs[runs["seed"].isin(SEEDS) & ~claimed(runs)]


def settled_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are not merely claimed, so that no claim moves a number of others; all if there are none."""
    settled = runs[~claimed(runs)]
    return settled if len(settled) else runs


def claimed(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Return which runs are merely claimed; none of a frame without statuses."""
    return runs["status"] == CLAIMED if "status" in runs else pd.Series(False, runs.index)


def is_complete(runs: pd.DataFrame) -> bool:
    """Return True if the runs of a cell have every seed that ranks it."""
    return {*SEEDS} <= {*ranked_runs(runs)["seed"]}


def _tested(known: Mapping[str, Sequence[stats.Correct]], place: int) -> dict[str, stats.Correct]:
    """Return the answers on one pair of the methods that have the seeds for a test."""
    return {name: cells[place] for name, cells in known.items() if cells[place].keys() == {*SEEDS}}


def correct_by_seed(runs: pd.DataFrame, answers: Answers) -> stats.Correct:
    """Return the test images that were classified right by seed, for the runs of which that is known."""
    hits = {seed: answers(key) for seed, key in zip(runs["seed"], runs["key"])}
    return {seed: correct for seed, correct in hits.items() if correct is not None}


def _of_pair(runs: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return runs[(runs["pair"] == pair[0]) & (runs["recipe"] == pair[1])]
