"""Ranks and groups of a block's methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cakdbench.records import Record
from cakdbench.results import stats as statistics

Answers = Callable[[Record], np.ndarray | None]
"""Whether each test image was classified right, `(images,)`; None where predictions or labels are not at hand."""


SEEDS = (0, 1, 2)
"""As many seeds as a ranked entry needs, see leaderboards/RULES.md."""


@dataclass(frozen=True)
class Standings:
    """How the methods of a block stand to each other; those with fewer seeds than `SEEDS` are left out.

    Attributes:
        ranks: average rank over the block's pairs, of the methods measured on all of them.
        letters: methods that share one cannot be told apart in average accuracy; of the ranked methods whose
            predictions are known.
        inseparable: the pairs of those methods that cannot be told apart.
        level: for each pair, the best method and those that cannot be told apart from it.
    """

    ranks: Mapping[str, float] = field(default_factory=dict)
    letters: Mapping[str, str] = field(default_factory=dict)
    inseparable: frozenset[frozenset[str]] = frozenset()
    level: tuple[frozenset[str], ...] = ()


def standings(runs: Mapping[str, Sequence[Sequence[Record]]], answers: Answers) -> Standings:
    """Rank and group methods.

    Args:
        runs: method to its records on each pair of the block, empty where there are none. All of one dataset.
    """
    whole = {name: pairs for name, pairs in runs.items() if min(map(len, pairs), default=0) >= len(SEEDS)}
    means = {name: [np.mean([r.result.top1 for r in records]) for records in pairs] for name, pairs in whole.items()}
    known = {name: [_answers(records, answers) for records in pairs] for name, pairs in runs.items()}
    testable = {name: known[name] for name in whole if min(map(len, known[name])) >= len(SEEDS)}
    alike = frozenset(statistics.inseparable(testable))
    order = sorted(testable, key=lambda name: (-np.mean(means[name]), name))
    return Standings(
        ranks=statistics.average_ranks(means) if len(means) > 1 else {},
        letters=statistics.letters(order, alike) if len(order) > 1 else {},
        inseparable=alike,
        level=tuple(
            frozenset(
                statistics.level_with_best({n: p[place] for n, p in known.items() if len(p[place]) >= len(SEEDS)})
            )
            for place in range(max(map(len, runs.values()), default=0))
        ),
    )


def _answers(records: Sequence[Record], answers: Answers) -> statistics.Correct:
    found = {record.identity.seed: answers(record) for record in records}
    return {seed: hits for seed, hits in found.items() if hits is not None}
