"""Agreement of the demo's predictions, against a count from the files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
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


@pytest.fixture(scope="module")
def runs():
    return cakdbench.load_results(RESULTS)


def test_runs_of_another_dataset_recipe_or_precision_do_not_take_part(frame, runs):
    ours, own = runs["student"] == "vit_xs", runs["dataset"] == "fashion_demo"
    for column, value in (("dataset", "other"), ("recipe", "other"), ("precision", "bf16")):
        alone = runs[ours & own & runs["teacher"].isna()]
        mixed = pd.concat([runs, alone.assign(**{column: value, "key": alone["key"] + "-"})])
        pd.testing.assert_frame_equal(agreement(mixed, PAIR).set_index(["first", "second"]), frame)


def test_of_several_recipes_or_precisions_one_is_chosen(frame, runs):
    for column, value in (("recipe", "other"), ("precision", "bf16")):
        mixed = pd.concat([runs, runs.assign(**{column: value, "key": runs["key"] + "-"})])
        with pytest.raises(UsageError, match=f"several {column}s, .*choose one with --{column}"):
            agreement(mixed, PAIR)
        first = runs[column].iloc[0]
        pd.testing.assert_frame_equal(agreement(mixed, PAIR, **{column: first}).set_index(["first", "second"]), frame)


def test_a_method_of_one_seed_is_compared_on_that_seed_alone(runs):
    few = runs[(runs["method"] != "ofd") | (runs["seed"] == 0)]
    row = agreement(few, PAIR).set_index(["first", "second"]).loc["ofd", "kd"]
    assert row.n == 1
    assert row.agreement == pytest.approx(100 * np.mean(predictions("ofd")[0] == predictions("kd")[0]))


def test_an_unknown_pair_names_those_at_hand():
    with pytest.raises(UsageError, match="no predictions of runs on a>b@c; pairs at hand: .*resnet_m>vit_xs"):
        agreement(cakdbench.load_results(RESULTS), "a>b@c")
