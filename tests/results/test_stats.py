"""The paired test, Holm's correction, letters and ranks, against computations made another way."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cakdbench.results.stats import (
    ALPHA,
    average_ranks,
    holm,
    inseparable,
    letters,
    level_with_best,
    training_noise,
    unstable,
)
from cakdbench.results.stats import paired_difference as difference


def runs(draw, accuracy, seeds=3, images=400):
    return {seed: draw.random(images) < accuracy for seed in range(seeds)}


def paired_difference(first, second):
    """With the noise that the two methods alone show."""
    return difference(first, second, [training_noise(both) for both in zip(first, second, strict=True)])


def test_without_chance_in_training_it_is_the_paired_t_test_over_images():
    draw = np.random.default_rng(0)
    a, b = draw.random(500) < 0.8, draw.random(500) < 0.7
    found = paired_difference([{0: a, 1: a}], [{0: b, 1: b}])
    reference = stats.ttest_rel(a.astype(float), b.astype(float))
    assert found.points == pytest.approx(100 * (a.mean() - b.mean()))
    assert (found.p, found.degrees) == (pytest.approx(reference.pvalue), pytest.approx(499))


def test_where_images_agree_it_is_the_paired_t_test_over_seeds():
    """Every image is differently classified alike, so that only the seeds differ: impossible but for whole runs."""
    right, wrong = np.ones(400, bool), np.zeros(400, bool)
    a, b = {0: right, 1: right, 2: right, 3: wrong}, {0: right, 1: wrong, 2: wrong, 3: wrong}
    found = paired_difference([a], [b])
    reference = stats.ttest_rel([1, 1, 1, 0], [1, 0, 0, 0])
    assert (found.p, found.degrees) == (pytest.approx(reference.pvalue), pytest.approx(3))


def test_the_standard_error_adds_images_and_seeds_of_all_pairs():
    draw = np.random.default_rng(1)
    first = [runs(draw, 0.8, seeds=3), runs(draw, 0.6, seeds=4)]
    second = [runs(draw, 0.7, seeds=5), runs(draw, 0.5, seeds=4)]
    found = paired_difference(first, second)
    noise = [training_noise(both) for both in zip(first, second, strict=True)]
    means, parts, per_image = [], [], np.zeros(400)
    for a, b, n in zip(first, second, noise, strict=True):
        seeds = sorted(set(a) & set(b))
        each = [[float(x) - float(y) for x, y in zip(a[s], b[s], strict=True)] for s in seeds]
        per_seed = [sum(line) / 400 for line in each]
        means.append(sum(per_seed) / len(seeds))
        assert n.variance == pytest.approx(np.var(per_seed, ddof=1) / 2) and n.degrees == len(seeds) - 1
        parts.append((np.var(per_seed, ddof=1) / len(seeds) / 4, len(seeds) - 1))
        per_image += np.array([sum(column) / len(seeds) for column in zip(*each, strict=True)]) / 2
    parts.append((np.var(per_image, ddof=1) / 400, 399))
    variance = sum(v for v, _ in parts)
    assert found.points == pytest.approx(100 * sum(means) / 2)
    assert found.standard_error == pytest.approx(100 * math.sqrt(variance))
    assert found.degrees == pytest.approx(variance**2 / sum(v**2 / f for v, f in parts))


def test_noise_is_the_residual_of_a_two_way_analysis_of_variance():
    draw = np.random.default_rng(6)
    shares = draw.integers(0, 100, (5, 4))
    answers = [{seed: np.arange(100) < shares[m, seed] for seed in range(4)} for m in range(5)]
    table = shares / 100
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    found = training_noise(answers)
    assert found.degrees == 12 and found.variance == pytest.approx((rest**2).sum() / 12)
    with_a_hole = [answers[0], {0: answers[1][0]}]
    assert training_noise(with_a_hole) is None
    assert training_noise([]) is None


def test_one_seed_says_nothing_of_training():
    draw = np.random.default_rng(2)
    a, b = runs(draw, 0.9, seeds=1), runs(draw, 0.2, seeds=1)
    assert paired_difference([a], [b]) is None
    assert paired_difference([runs(draw, 0.9), a], [runs(draw, 0.2), b]) is None
    assert paired_difference([{0: a[0], 1: a[0]}], [{2: a[0], 3: a[0]}]) is None
    assert paired_difference([], []) is None


def test_the_seeds_of_other_methods_help():
    """Two seeds of two methods cannot tell 10 points apart; with the noise of ten such methods they can."""
    draw = np.random.default_rng(8)
    hardness = draw.random(2000)
    skills = {"a": 0.9, "b": 0.8, **{f"m{i}": 0.7 for i in range(8)}}
    found = {name: [{s: hardness < skill + draw.normal(0, 0.005) for s in range(2)}] for name, skill in skills.items()}
    assert frozenset("ab") not in inseparable(found)
    assert paired_difference(found["a"], found["b"]).p > ALPHA / 45


def test_equal_and_constantly_different_runs():
    right, wrong = np.ones(9, bool), np.zeros(9, bool)
    assert paired_difference([{0: right, 1: right}], [{0: right, 1: right}]).p == 1
    assert paired_difference([{0: right, 1: right}], [{0: wrong, 1: wrong}]).p < 1e-12


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 3))
def test_the_order_of_two_methods_changes_but_the_sign(seed, seeds, pairs):
    draw = np.random.default_rng(seed)
    a, b = ([runs(draw, p, seeds, 60) for _ in range(pairs)] for p in (0.8, 0.6))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.points == pytest.approx(-other.points) and one.p == pytest.approx(other.p)


def test_false_alarms_are_as_rare_as_promised_and_true_differences_found():
    """Methods of equal accuracy whose runs scatter as trained networks do; then one that is 5 points better."""
    draw, alarms, found = np.random.default_rng(3), 0, 0
    for _ in range(100):
        hardness = draw.random(300)

        def run(skill, hardness=hardness):
            shift = skill + draw.normal(0, 0.01)
            return {s: hardness + draw.normal(0, 0.15, 300) < shift + draw.normal(0, 0.01) for s in range(3)}

        a, b, better = run(0.7), run(0.7), run(0.8)
        alarms += paired_difference([a], [b]).p < 0.05
        found += paired_difference([better], [a]).p < 0.05
    assert alarms <= 14 and found >= 75


def shares(*accuracies, images=1000):
    """A method's answers by seed, that many of them right."""
    return {seed: np.arange(images) < images * share for seed, share in enumerate(accuracies)}


CALM = {f"calm_{n}": shares(0.8 + 0.01 * n, 0.805 + 0.01 * n, 0.81 + 0.01 * n) for n in range(6)}


def test_a_collapsed_training_makes_its_method_unstable_and_no_other():
    assert unstable(CALM) == set()
    assert unstable(CALM | {"wild": shares(0.8, 0.2, 0.8)}) == {"wild"}
    assert unstable(CALM | {"wild": shares(0.8, 0.2, 0.8), "restless": shares(0.8, 0.6, 0.7)}) == {"wild", "restless"}
    assert unstable(CALM | {"one seed": shares(0.1)}) == set()


@pytest.mark.parametrize("ratio, expected", [(0.95, set()), (1.05, {"wild"})])
def test_the_bound_is_that_of_an_f_test(ratio, expected):
    """7 methods of 3 seeds: F(2, 12) at 0.001 / 7 is 19.6; equal steps give each method its step as deviation."""
    step = np.sqrt(stats.f.isf(0.001 / 7, 2, 12)) * ratio
    assert unstable({**CALM, "wild": shares(*(0.7 + 0.005 * step * k for k in (-1, 0, 1)))}) == expected


def test_of_two_methods_or_without_any_noise_none_is_unstable():
    assert unstable({"wild": shares(0.8, 0.2, 0.8), "calm": shares(0.8, 0.81, 0.8)}) == set()
    assert unstable({n: shares(0.8, 0.8, 0.8) for n in "abc"} | {"other": shares(0.8, 0.7, 0.8)}) == set()


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_by_its_definition(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    expected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        expected[place] = highest
    assert holm(values) == pytest.approx(expected)


def test_methods_of_equal_answers_are_inseparable_and_distant_ones_are_not():
    draw = np.random.default_rng(4)
    good, bad = [runs(draw, 0.9, 3, 2000)], [runs(draw, 0.5, 3, 2000)]
    found = inseparable({"a": good, "b": good, "c": bad})
    assert found == {frozenset("ab")}
    assert ALPHA == 0.05
    assert level_with_best({"a": good[0], "b": good[0], "c": bad[0]}) == {"a", "b"}
    assert level_with_best({}) == set()


def test_of_what_cannot_be_tested_nothing_is_said():
    draw = np.random.default_rng(5)
    one = {"a": [runs(draw, 0.9, seeds=1)], "b": [runs(draw, 0.1, seeds=1)]}
    assert inseparable(one) == set() and level_with_best({name: cells[0] for name, cells in one.items()}) == set()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_two_methods_share_a_letter_exactly_if_they_are_alike(edges):
    names = [f"m{i}" for i in range(8)]
    alike = {frozenset((names[a], names[b])) for a, b in edges if a != b}
    found = letters(names, alike)
    for a, b in itertools.combinations(names, 2):
        assert bool(set(found[a].split()) & set(found[b].split())) == (frozenset((a, b)) in alike)
    assert all(found[name] for name in names) and found[names[0]].startswith("a")


def test_ranks_share_ties():
    found = average_ranks({"a": [80.0, 70.0], "b": [80.0, 60.0], "c": [50.0, 90.0]})
    assert found == {"a": 1.75, "b": 2.25, "c": 2.0}
    assert average_ranks({}) == {}
