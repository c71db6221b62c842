"""The comparison of two methods against a computation from the files alone."""

import numpy as np
import pytest
from scipy.stats import t

import cakdbench
from cakdbench.utils.errors import UsageError
from tests.results.lab import DEMO, LABELS, entries


@pytest.fixture(scope="module")
def runs():
    return cakdbench.load_results(DEMO)


def hits(runs):
    """(method, student) to seed to which images are right, from the files alone."""
    counting = set(runs.key[runs.excluded.isna()])
    labels = np.load(next(LABELS.glob("fashion_demo-*.npy")))
    found = {}
    for path, entry in entries().items():
        record = entry["record"]
        if path.stem in counting:
            right = np.load(path.with_suffix(".npy")) == labels
            cell = found.setdefault((record["label"], record["identity"]["student"]), {})
            cell[record["identity"]["seed"]] = right
    return found


def noise_of(cells):
    """Residual variance of method + seed of balanced cells, and its degrees of freedom."""
    table = np.array([[cell[seed].mean() for seed in (0, 1, 2)] for cell in cells])
    residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    degrees = (len(table) - 1) * 2
    return (residual**2).sum() / degrees, degrees


def test_the_difference_its_error_and_p_are_those_of_the_files(runs):
    found, right = cakdbench.compare(runs, "ofd", "kd").set_index("pair"), hits(runs)
    for student, pair in (("vit_xs", "resnet_m>vit_xs@fashion_demo"), ("mixer_xs", "resnet_m>mixer_xs@fashion_demo")):
        # IRG's seeds differ too much there to say anything of the others' noise.
        cells = {method: cell for (method, other), cell in right.items() if other == student and method != "irg"}
        gaps = np.array([cells["ofd"][seed] * 1.0 - cells["kd"][seed] for seed in (0, 1, 2)])
        noise, degrees = noise_of(cells.values())
        images = gaps.mean(0).var(ddof=1) / gaps.shape[1]
        error = np.sqrt(images + 2 * noise / 3)
        free = error**4 / (images**2 / (gaps.shape[1] - 1) + (2 * noise / 3) ** 2 / degrees)
        row = found.loc[pair]
        assert row.n == 3 and row.difference == pytest.approx(100 * gaps.mean(), abs=1e-9)
        assert row.standard_error == pytest.approx(100 * error, rel=1e-9)
        assert row.degrees == pytest.approx(free, rel=1e-9)
        assert row.p == pytest.approx(2 * t.sf(abs(gaps.mean()) / error, free), rel=1e-9)


def test_of_an_unstable_method_the_two_alone_tell_the_noise(runs):
    pair = "resnet_m>mixer_xs@fashion_demo"
    found, right = cakdbench.compare(runs, "irg", "kd").set_index("pair").loc[pair], hits(runs)
    gaps = [right["irg", "mixer_xs"][seed].mean() - right["kd", "mixer_xs"][seed].mean() for seed in (0, 1, 2)]
    assert found.standard_error > 100 * np.std(gaps, ddof=1) / np.sqrt(3) and found.degrees < 3
    calm = cakdbench.compare(runs, "ofd", "kd").set_index("pair").loc[pair]
    assert calm.standard_error < found.standard_error / 10


def test_the_average_is_that_of_the_pairs(runs):
    found = cakdbench.compare(runs, "ofd", "kd")
    pairs, average = found[found.pair != "average"], found[found.pair == "average"].iloc[0]
    assert len(pairs) == 3 and average.difference == pytest.approx(pairs.difference.mean(), abs=1e-9)
    assert average.standard_error < pairs.standard_error.mean() and 0 < average.p < 1


def test_the_other_way_round_only_the_sign_changes(runs):
    one, other = cakdbench.compare(runs, "ofd", "at"), cakdbench.compare(runs, "at", "ofd")
    assert np.allclose(one.difference, -other.difference) and np.allclose(one.p, other.p)
    assert (one.p < 1e-3).all()


def test_a_method_is_not_compared_with_itself(runs):
    with pytest.raises(UsageError, match="kd and kd are one method"):
        cakdbench.compare(runs, "kd", "kd")


def test_scratch_is_compared_on_the_pairs_of_its_student(runs):
    gains = cakdbench.summarize(runs).set_index(["method", "pair"]).gain
    found = cakdbench.compare(runs, "kd", "scratch").set_index("pair")
    for pair in found.index.drop("average"):
        assert found.difference[pair] == pytest.approx(gains["kd", pair], abs=1e-9)


def test_without_predictions_there_is_a_difference_and_no_test(runs):
    found = cakdbench.compare(runs.assign(path=None), "ofd", "kd")
    assert np.allclose(found.difference, cakdbench.compare(runs, "ofd", "kd").difference)
    assert found[["standard_error", "degrees", "p"]].isna().all(axis=None)


def test_what_cannot_be_compared_is_told(runs):
    with pytest.raises(UsageError, match="unknown method 'ofb'; did you mean .*ofa"):
        cakdbench.compare(runs, "ofb", "ofa")
    apart = runs[(runs.method == "kd") & (runs.seed == 0) | (runs.method == "ofa") & (runs.seed == 1)]
    with pytest.raises(UsageError, match="no pair and seed in common"):
        cakdbench.compare(apart, "kd", "ofa")
