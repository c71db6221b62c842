"""Finished runs tested again, against an evaluation by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cakdbench.data.datasets import load_dataset
from cakdbench.data.splits import Split
from cakdbench.store import Store
from cakdbench.students.evaluate import evaluate_students
from cakdbench.students.student import load_student
from cakdbench.utils.corruptions import parse_corruptions
from cakdbench.utils.errors import UsageError
from tests.students.lab import finished_run

TEACHERS = Path(__file__).parents[2] / "leaderboards/teachers"
STUDENTS = [load_student(run) for run in Store(TEACHERS).runs()]


@pytest.fixture
def few(monkeypatch):
    """The demo's first 200 test images, as a dataset of its own and in its place."""
    data = load_dataset("fashion_demo")
    test = Split(data.test.labels[:200], data.test.image)
    monkeypatch.setattr("cakdbench.students.evaluate.load_dataset", lambda *_, **__: replace(data, test=test))
    return data


def test_without_a_corruption_it_is_the_accuracy_of_the_record():
    frame = evaluate_students(STUDENTS[:1])
    assert frame["top1"].tolist() == pytest.approx([STUDENTS[0].record.result.top1], abs=1e-9)
    assert frame["top5"].tolist() == pytest.approx([STUDENTS[0].record.result.top5], abs=1e-9)
    assert frame["corruption"].tolist() == ["none"] and frame["drop"].tolist() == [0]


def test_corruptions_cost_accuracy_and_every_run_sees_the_same(few):
    noises = parse_corruptions(["gaussian_noise:1", "gaussian_noise:5", "shot_noise=30"])
    frame = evaluate_students(STUDENTS, noises)
    assert len(frame) == len(STUDENTS) * 4 and list(frame["key"].unique()) == [s.record.key for s in STUDENTS]
    own = frame[frame["key"] == STUDENTS[1].record.key].reset_index(drop=True)
    assert own["top1"][0] > own["top1"][2] and own["drop"][2] == pytest.approx(own["top1"][0] - own["top1"][2])
    alone = evaluate_students(STUDENTS[1:], noises)
    pd.testing.assert_frame_equal(own, alone)


def test_classes_in_another_order_are_put_right_and_others_refused(few, monkeypatch):
    expected = evaluate_students(STUDENTS[:1])["top1"].item()
    count, names = few.num_classes, few.class_names
    turned = Split((few.test.labels[:200] + 1) % count, few.test.image)
    moved = replace(few, test=turned, class_names=(names[-1], *names[:-1]))
    monkeypatch.setattr("cakdbench.students.evaluate.load_dataset", lambda *_, **__: moved)
    assert evaluate_students(STUDENTS[:1])["top1"].item() == expected
    other = replace(few, class_names=tuple(f"{name}!" for name in names))
    monkeypatch.setattr("cakdbench.students.evaluate.load_dataset", lambda *_, **__: other)
    with pytest.raises(UsageError, match="are not those of the data"):
        evaluate_students(STUDENTS[:1])


def test_the_command_prints_and_writes(shell, few, tmp_path, monkeypatch):
    store = shutil.copytree(TEACHERS, tmp_path / "runs")
    code, text = shell("evaluate", str(store), "--corruption", "impulse_noise:2", "-o", "noise.csv", "--cpu")
    assert code == 0 and text.count("impulse_noise") == 2 and "0.06" in text
    frame = pd.read_csv("noise.csv")
    assert len(frame) == 4 and set(frame["corruption"]) == {"none", "impulse_noise"}
    assert shell("evaluate", "nothing", "--store", str(store))[0] == 2


def test_a_run_that_is_named_twice_is_tested_once(shell, few, tmp_path):
    store = shutil.copytree(TEACHERS, tmp_path / "runs")
    key = STUDENTS[0].record.key
    words = "--cpu", "--store", str(store), "-o", "new/noise.csv"
    code, text = shell("evaluate", key, key[:-3], str(store), "--corruption", "impulse_noise:2", *words)
    assert code == 0, text
    assert len(pd.read_csv("new/noise.csv")) == 2 * len(STUDENTS)
    pd.testing.assert_frame_equal(evaluate_students(STUDENTS[:1] * 2), evaluate_students(STUDENTS[:1]))


def test_what_cannot_be_written_has_been_printed(shell, few, tmp_path):
    (tmp_path / "taken").write_text("a file")
    words = "--cpu", "--store", str(TEACHERS), "-o", "taken/noise.csv"
    code, text = shell("evaluate", STUDENTS[0].record.key, *words)
    assert code == 1 and "top1" in text and "taken" in text and "Traceback" not in text


def test_a_run_that_cannot_be_tested_stops_no_other(shell, few, tmp_path):
    store = shutil.copytree(TEACHERS, tmp_path / "runs")
    own, gone = finished_run(Store(store), "vit_xs"), finished_run(Store(store), "mixer_xs", "pets")
    record = json.loads((own.path / "record.json").read_text())
    record["identity"]["student"] = "my_net"
    (own.path / "record.json").write_text(json.dumps(record))
    code, text = shell("evaluate", str(store), "-o", "some.csv", "--cpu")
    assert code == 1 and len(pd.read_csv("some.csv")) == 2
    assert f"failed: {own.key}: unknown model 'my_net'" in text and "--model-file" in text
    assert f"failed: {gone.key}: the classes of {gone.key} are not those of the data" in text
    code, text = shell("evaluate", gone.key, "--store", str(store), "--cpu")
    assert code == 1 and "Traceback" not in text
