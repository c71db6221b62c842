"""Agreement of the demo's predictions, against a count from the files."""

import json
from pathlib import Path

import numpy as np
import pytest

import cakdbench
from cakdbench.analysis import agreement
from cakdbench.utils.errors import UsageError

RESULTS = Path(__file__).parents[2] / "leaderboards/results"
PAIR = "resnet_m>vit_xs@fashion_demo"
LABELS = np.load(next((RESULTS.parent / "labels").glob("fashion_demo-*.npy")))


@pytest.fixture(scope="module")
def frame():
    return agreement(cakdbench.load_results(RESULTS), PAIR).set_index(["first", "second"])


def predictions(method, student="vit_xs"):
    found = {}
    for path in (RESULTS / method).glob("*.json"):
        record = json.loads(path.read_text())["record"]
        identity = record["identity"]
        if identity["student"] == student and record["label"] == method:
            found[identity["seed"]] = np.load(path.with_suffix(".npy"))
    return found


def test_two_methods_are_compared_seed_by_seed(frame):
    ours, theirs = predictions("ofd"), predictions("kd")
    row = frame.loc["ofd", "kd"]
    assert row.n == 3
    assert row.agreement == pytest.approx(100 * np.mean([np.mean(ours[s] == theirs[s]) for s in (0, 1, 2)]))
    both = [np.mean((ours[s] != LABELS) & (theirs[s] != LABELS)) for s in (0, 1, 2)]
    either = [np.mean((ours[s] != LABELS) | (theirs[s] != LABELS)) for s in (0, 1, 2)]
    assert row.shared_errors == pytest.approx(100 * np.mean(np.divide(both, either)))


def test_a_method_is_compared_with_itself_over_seeds(frame):
    own = predictions("kd")
    couples = [(0, 1), (0, 2), (1, 2)]
    assert frame.loc["kd", "kd"].n == 3
    assert frame.loc["kd", "kd"].agreement == pytest.approx(
        100 * np.mean([np.mean(own[a] == own[b]) for a, b in couples])
    )


def test_the_teacher_and_scratch_take_part_and_order_does_not_matter(frame):
    assert frame.loc["teacher", "kd"].n == 3 and np.isnan(frame.loc["teacher", "teacher"].agreement)
    assert frame.loc["scratch", "kd"].agreement == frame.loc["kd", "scratch"].agreement


def test_an_unknown_pair_names_those_at_hand():
    with pytest.raises(UsageError, match="no predictions of runs on a>b@c; pairs at hand: .*resnet_m>vit_xs"):
        agreement(cakdbench.load_results(RESULTS), "a>b@c")
