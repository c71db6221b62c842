"""`cakdbench analyse`: what it writes, and what it says of names that stand for nothing."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

TEACHERS = Path(__file__).parents[2] / "leaderboards/teachers"


@pytest.fixture
def store(tmp_path):
    return shutil.copytree(TEACHERS, tmp_path / "runs")


def test_runs_and_teachers_are_compared_with_numbers_and_pictures(shell, store):
    run = next(store.glob("*swin*")).name
    code, text = shell("analyse", "similarity", run, "resnet_m@fashion_demo", "--store", str(store), "--images", "70")
    assert code == 0, text
    frame = pd.read_csv("analysis/similarity-cka-1.csv")
    assert list(frame["first"]) == ["stage 1", "stage 2", "stage 3", "stage 4", "final"]
    assert frame.drop(columns="first").apply(lambda column: column.between(0, 1).all()).all()
    assert Image.open("analysis/similarity-cka-1.png").width > 400
    assert Path("analysis/similarity-cka-1.svg").read_text().count("linear CKA") >= 2


def test_maps_have_an_image_a_row_and_their_values_in_a_file(shell, store):
    code, text = shell("analyse", "attention", "swin_m@fashion_demo", "--store", str(store), "--images", "3")
    assert code == 0, text
    frame = pd.read_csv("analysis/attention.csv")
    assert set(frame["image"]) == {0, 1, 2} and frame.groupby("image")["value"].sum().between(0.99, 1.01).all()
    code, text = shell("analyse", "features", "resnet_m@fashion_demo", "--store", str(store), "--images", "2")
    assert code == 0 and set(pd.read_csv("analysis/features-1.csv")["map"]) == {f"stage {n}" for n in range(1, 5)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("similarity", "nothing"), "nothing"),
        (("similarity", "resnet_m@fashion_dem", "swin_m@fashion_demo"), "'fashion_dem'; did you mean fashion_demo"),
        (("features", "resnt_m@fashion_demo"), "'resnt_m'; did you mean resnet_m"),
        (("similarity", "swin_m@fashion_demo", "resnet_m@cifar100"), "of different datasets"),
        (("attention", "resnet_m@fashion_demo"), "has no attention"),
    ],
)
def test_what_cannot_be_done_is_one_line(shell, store, arguments, words):
    code, text = shell("analyse", *arguments, "--store", str(store))
    assert code == 2 and words in text and "Traceback" not in text
