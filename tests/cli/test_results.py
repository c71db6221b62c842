"""`cakdbench leaderboard`, `diff` and `explain-run` on what the repository holds."""

import shutil
from pathlib import Path

import pytest

BOARDS = Path(__file__).parents[2] / "leaderboards"
RUN = "kd-vit_xs-fashion_demo-s0"


@pytest.fixture
def boards(tmp_path):
    return shutil.copytree(BOARDS, tmp_path / "leaderboards")


def demo(boards: Path) -> list[str]:
    return ["--pairs", "demo", "--boards", str(boards), "--results", str(boards / "results")]


def test_check_ends_with_0_on_current_boards_and_with_1_and_a_diff_on_changed_ones(shell, boards):
    command = ("leaderboard", "--check", *demo(boards))
    code, output = shell(*command)
    assert code == 0 and "every page is current" in output
    page = boards / "demo.md"
    page.write_text(page.read_text().replace(" ± ", " ± 7", 1).replace(" ± ", " ± 8", 2))
    code, output = shell(*command)
    assert code == 1 and "± 8" in output and "stale: run `cakdbench leaderboard`" in output


def test_an_entry_with_damaged_predictions_is_named_and_left_out(shell, boards):
    file = next((boards / "results" / "kd").glob("*.npy"))
    file.write_bytes(file.read_bytes()[:-7])
    code, output = shell("leaderboard", *demo(boards))
    assert code == 0 and f"its predictions in {file.name} cannot be read" in output
    assert (boards / "demo.md").read_text() != (BOARDS / "demo.md").read_text()


def test_damaged_labels_stop_the_boards_and_are_named(shell, boards):
    file = next((boards / "labels").glob("*.npy"))
    file.write_bytes(b"x")
    code, output = shell("leaderboard", *demo(boards))
    assert code == 1 and f"damaged file {file}" in output and "keep the dataset at hand" in output


def test_an_unknown_format_is_refused_with_those_there_are(shell, boards):
    code, output = shell("leaderboard", "--pairs", "demo", "--formats", "md,pdf", "--boards", str(boards))
    assert code == 2 and "--formats 'pdf': choose from md, html, csv, tex" in output


def test_a_submitted_run_is_explained_and_compared(shell, boards):
    results = ("--results", str(boards / "results"))
    code, output = shell("explain-run", RUN, *results)
    assert code == 0 and "demo: counts for resnet_m>vit_xs@fashion_demo" in output and "re-scored" in output
    code, output = shell("diff", RUN, "scratch-vit_xs-fashion_demo-s0", *results)
    assert code == 0 and "test images only this run has right" in output
    code, output = shell("explain-run", "nothing", *results)
    assert code == 2 and "unknown run" in output
