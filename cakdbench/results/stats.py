"""Which differences of accuracies are certain: paired tests over test images and seeds, Holm's correction, letters.

Two causes make the difference of two accuracies uncertain: the choice of the test images, which both methods
saw, so that each image is a pair; and the training, which a seed repeats. Both enter the standard error. The
second is estimated from all methods of a pair together, as in an analysis of variance: the three seeds of two
methods alone say next to nothing about it.
"""

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, product

import networkx
import numpy as np
from scipy.stats import f as f_ratio
from scipy.stats import norm, rankdata
from scipy.stats import t as student_t

ALPHA = 0.05
"""Family-wise error of all comparisons of a block."""

UNSTABLE = 0.001
"""Chance by which a method of a pair is taken for one whose seeds differ more than the others' do."""

Correct = Mapping[int, np.ndarray]
"""A method on a pair: the test images that were classified right, `(images,)`, by seed."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of two accuracies, averaged over pairs.

    Attributes:
        points: first minus second, in percentage points.
        standard_error: in points, of images and training together.
        degrees: of freedom, by Welch and Satterthwaite.
        p: two-sided, uncorrected.
    """

    points: float
    standard_error: float
    degrees: float
    p: float


@dataclass(frozen=True)
class Noise:
    """The chance of training on one pair: variance of a share between seeds, and its degrees of freedom."""

    variance: float
    degrees: int


def training_noise(answers: Iterable[Correct]) -> Noise | None:
    """Return the residual variance of accuracy = method + seed over all methods of a pair; None without freedom."""
    runs = [(method, seed, hits.mean()) for method, cell in enumerate(answers) for seed, hits in cell.items()]
    if not runs:
        return None
    methods, seeds, shares = (np.array(column) for column in zip(*runs, strict=True))
    effects = np.hstack([values[:, None] == np.unique(values) for values in (methods, seeds)]).astype(float)
    fitted = effects @ np.linalg.lstsq(effects, shares, rcond=None)[0]
    degrees = len(runs) - int(np.linalg.matrix_rank(effects))
    return Noise(float(((shares - fitted) ** 2).sum()) / degrees, degrees) if degrees else None


def unstable(answers: Mapping[str, Correct]) -> set[str]:
    """Return the methods of a pair whose accuracy varies between seeds far more than that of the others.

    One training in three that collapses would otherwise enter the noise of every method, and nothing on the pair
    could be told apart any more. The largest variance is compared with the pooled one of the rest (one-sided F test
    at `UNSTABLE`, Bonferroni by the number of methods); what it shows is taken out, and the test repeated.
    """
    spread = {name: [int(hits.sum()) for hits in cell.values()] for name, cell in answers.items() if len(cell) > 1}
    found: set[str] = set()
    while len(rest := {name: counts for name, counts in spread.items() if name not in found}) > 2:
        wildest = max(rest, key=lambda name: np.var(rest[name], ddof=1))
        others = [counts for name, counts in rest.items() if name != wildest]
        degrees = sum(len(counts) - 1 for counts in others)
        pooled = float(sum(np.var(counts) * len(counts) for counts in others)) / degrees
        if not pooled or len(rest) * _f_test(rest[wildest], pooled, degrees) > UNSTABLE:
            break
        found.add(wildest)
    return found


def _f_test(counts: Sequence[int], pooled: float, degrees: int) -> float:
    """Return the chance of so large a variance under a pooled one of so many degrees of freedom."""
    return float(f_ratio.sf(np.var(counts, ddof=1) / pooled, len(counts) - 1, degrees))


def paired_difference(
    first: Sequence[Correct], second: Sequence[Correct], noise: Sequence[Noise | None]
) -> Difference | None:
    """Test two methods for equal accuracy, averaged over pairs that share one test set.

    With d[c, s, i] the difference on pair c of C, seed s of S_c and image i of N, and v_c the noise of training
    on pair c, the squared standard error is var_i(mean_cs d) / N + sum_c 2 v_c / (S_c C^2).

    Args:
        first, second, noise: one entry a pair; only the seeds that both have count.

    Returns:
        None if a pair has no seed in common, nothing is known of the training's chance, or the numbers of test images
        differ, as where some could not be read: then there is no pairing image by image.
    """
    if not one_test_set([*first, *second]):
        return None
    runs = [_differences(a, b) for a, b in zip(first, second, strict=True)]
    known = [variance for variance in noise if variance is not None]
    if not runs or len(known) < len(runs) or not all(map(len, runs)):
        return None
    images = np.mean([run.mean(0) for run in runs], axis=0)
    parts = [(images.var(ddof=1) / images.size, images.size - 1)]
    parts += [(2 * n.variance / len(run) / len(runs) ** 2, n.degrees) for run, n in zip(runs, known, strict=True)]
    error = math.sqrt(sum(part for part, _ in parts))
    mean = float(images.mean())
    if error == 0.0:
        return Difference(100 * mean, 0.0, math.inf, float(mean == 0.0))
    degrees = error**4 / sum(part**2 / free for part, free in parts)
    p = 2 * float(student_t.sf(abs(mean) / error, degrees))
    return Difference(100 * mean, 100 * error, degrees, p)


def one_test_set(cells: Iterable[Correct]) -> bool:
    """Return True if all answers are to as many images."""
    return len({len(hits) for cell in cells for hits in cell.values()}) <= 1


def _differences(first: Correct, second: Correct) -> np.ndarray:
    seeds = sorted(first.keys() & second.keys())
    return np.array([first[seed].astype(float) - second[seed].astype(float) for seed in seeds])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm (1979) for testing all of them together."""
    values = np.array(p_values, dtype=float)
    order = values.argsort(kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return steps[order.argsort(kind="stable")].tolist()


def inseparable(answers: Mapping[str, Sequence[Correct]]) -> set[frozenset[str]]:
    """Return the pairs of methods that cannot be told apart at `ALPHA`, all pairs of methods tested together.

    Of a pair of methods that cannot be tested (see `paired_difference`) nothing is said.
    """
    return _alike(_corrected(answers, list(combinations(sorted(answers), 2))))


def level_with_best(answers: Mapping[str, Correct]) -> set[str]:
    """Return, for one pair, the method of highest accuracy and those that cannot be told apart from it.

    Where the highest cannot be tested against any other, there is no best.
    """
    if not answers:
        return set()
    best = max(sorted(answers), key=lambda name: np.mean([hits.mean() for hits in answers[name].values()]))
    pairs = [(best, name) for name in sorted(answers) if name != best]
    tests = _corrected({name: [correct] for name, correct in answers.items()}, pairs)
    return {best}.union(*_alike(tests)) if tests else set()


def _corrected(
    answers: Mapping[str, Sequence[Correct]], pairs: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], float]:
    """Return the p-values, corrected by Holm, of the pairs of methods that can be tested."""
    noise = [training_noise(column) for column in zip(*answers.values(), strict=True)]
    tests = {pair: paired_difference(answers[pair[0]], answers[pair[1]], noise) for pair in pairs}
    p_values = {pair: test.p for pair, test in tests.items() if test}
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def _alike(tests: Mapping[tuple[str, str], float]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair, p in tests.items() if p > ALPHA}


def letters(names: Sequence[str], alike: Iterable[frozenset[str]]) -> dict[str, str]:
    """Return letters such that two names share one exactly if they are alike (compact letter display).

    Args:
        names: in the order the letters are given out.
        alike: the pairs that cannot be told apart.

    Returns:
        the letters of each name, separated by spaces.
    """
    graph = networkx.Graph()
    graph.add_nodes_from(names)
    graph.add_edges_from(tuple(pair) for pair in alike)
    places = {name: place for place, name in enumerate(names)}
    groups = sorted(sorted(places[name] for name in group) for group in networkx.find_cliques(graph))
    alphabet = ("".join(mark) for size in count(1) for mark in product(string.ascii_lowercase, repeat=size))
    marks = dict(zip(map(tuple, groups), alphabet, strict=False))
    return {name: " ".join(mark for group, mark in marks.items() if places[name] in group) for name in names}


def average_ranks(accuracies: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each method's mean rank over pairs (1 is best; equal accuracies share the mean of their ranks)."""
    table = np.array(list(accuracies.values()), dtype=float)
    ranks = rankdata(-table, axis=0).mean(axis=1) if table.size else []
    return dict(zip(accuracies, map(float, ranks), strict=True))


def resolution(images: int) -> float:
    """Return the share of one test image in points: no accuracy changes by less."""
    return 100 / images


def standard_error(top1: float, images: int) -> float:
    """Return the binomial standard error of one measured accuracy, in points."""
    share = top1 / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def indistinguishable(top1: float, images: int) -> float:
    """Return the difference of two accuracies near `top1` that can be chance in the choice of test images (95 %).

    Takes the two for independent. Two models on the same images mostly fail on the same ones, which makes the
    true bound smaller; so this one errs on the safe side. Chance in training (the seed) comes on top.
    """
    return max(resolution(images), float(norm.ppf(0.975)) * math.sqrt(2) * standard_error(top1, images))
