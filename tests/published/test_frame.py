"""The frame of printed accuracies, against the file itself."""

import csv

import pytest

from cakdbench.published.frame import load_published
from cakdbench.published.ledger import PUBLISHED_DIR


@pytest.fixture(scope="module")
def frame():
    return load_published()


def test_every_line_of_the_file_is_a_row_as_it_is_printed(frame):
    with (PUBLISHED_DIR / "accuracy.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(frame) == len(lines)
    for name in ("source", "table", "teacher", "student", "dataset", "method", "metric", "protocol", "note"):
        assert frame[name].tolist() == [line[name] for line in lines]
    assert frame["printed"].tolist() == [line["value"] for line in lines]
    assert frame["value"].tolist() == [float(line["value"]) for line in lines]


def test_gains_are_over_the_scratch_student_of_the_same_table_and_metric(frame):
    of_pair = frame[(frame["pair"] == "swin_t>resnet18@cifar100") & (frame["source"] == "tas")]
    main = of_pair[of_pair["table"] == "Table 1"].set_index("method")
    assert main.loc["fbt", "gain"] == pytest.approx(81.61 - 74.01)
    assert main.loc[["scratch", "teacher"], "gain"].isna().all()
    top5 = frame[(frame["pair"] == "swin_l>resnet18@imagenet1k") & (frame["metric"] == "top5")].set_index("method")
    assert top5.loc["pcagl", "gain"] == pytest.approx(top5.loc["pcagl", "value"] - top5.loc["scratch", "value"])


def test_a_table_without_the_scratch_student_has_no_gains(frame):
    assert frame[frame["source"] == "fbt-summary"]["gain"].isna().all()
