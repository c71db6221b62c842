"""Cells against the numbers of the committed board, and against JSON and numpy alone."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cakdbench
from cakdbench.results.cells import cells_frame, place_on_pairs
from tests.results.lab import DEMO, entries

BOARD = DEMO.parent / "demo.md"


@pytest.fixture(scope="module")
def runs():
    return cakdbench.load_results(DEMO)


@pytest.fixture(scope="module")
def cells(runs):
    return cakdbench.summarize(runs)


def board_table(heading):
    """Method to the texts of its cells by column, of the first table of the board that has such a column."""
    tables = re.findall(r"(?:^\|.*\n)+", BOARD.read_text(), re.MULTILINE)
    head, _, *rows = next(table for table in tables if heading(table.splitlines()[0])).splitlines()
    names = [name.strip() for name in head.strip("|").split("|")]
    texts = [dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]
    return {method_id(row["method"]): row for row in texts if row["method"] != "*teacher*"}


def method_id(title):
    """`IRG: free_maximum `irg:free_maximum`` -> irg:free_maximum, `KD` -> kd."""
    return code[1] if (code := re.search(r"`(.+)`", title)) else title.lower()


def pair_head(pair):
    teacher, student = pair.split("@")[0].split(">")
    return f"{teacher} → {student}"


def points(value, signed=False):
    return "–" if pd.isna(value) else format(round(value, 2) + 0.0, "+.2f" if signed else ".2f")


def test_every_number_of_the_demo_board_is_that_of_the_frame(cells):
    board = board_table(lambda head: "rank" in head)
    best = board_table(lambda head: "method" in head and "rank" not in head)
    compared = 0
    for cell in cells.itertuples():
        gain = "" if pd.isna(cell.gain) else f" ({points(cell.gain, signed=True)})"
        text = f"{points(cell.mean)} ± {points(cell.sd)}"
        row, head = board[cell.method], pair_head(cell.pair)
        mark = " ~" if cell.unstable else ""
        assert row[head] == (f"**{text}**" if cell.level else text) + gain + mark
        assert (row["rank"], row["group"]) == (points(cell.rank), "–" if pd.isna(cell.letters) else cell.letters)
        assert row["average gain"].split(" (")[0] == (
            "" if cell.method == "scratch" else points(cell.average_gain, True)
        )
        assert best[cell.method][head] == points(cell.optimistic)
        compared += 4 + 2 * pd.notna(cell.gain) + pd.notna(cell.rank)
    assert compared >= 287
    assert set(board) == set(cells.method)


def test_cells_are_those_of_json_and_numpy(runs, cells):
    counting = set(runs.key[runs.excluded.isna()])
    records = [entry["record"] for path, entry in entries().items() if path.stem in counting]
    top1 = {}
    for record in records:
        if record["recipe_name"] == "demo":
            place = record["label"], record["identity"]["student"]
            top1.setdefault(place, {})[record["identity"]["seed"]] = record["result"]["top1"]
    assert len(cells) == len(top1) >= 50
    for cell in cells.itertuples():
        own, scratch = top1[cell.method, cell.student], top1["scratch", cell.student]
        assert cell.n == len(own) and cell.seeds == " ".join(map(str, sorted(own)))
        assert cell.mean == pytest.approx(np.mean(list(own.values())), abs=1e-9)
        assert cell.sd == pytest.approx(np.std(list(own.values()), ddof=1), abs=1e-9)
        if cell.method == "scratch":
            assert pd.isna(cell.gain)
        else:
            assert cell.gain == pytest.approx(np.mean([own[seed] - scratch[seed] for seed in own]), abs=1e-9)


def test_gains_can_be_pivoted_and_variants_stay_apart(cells):
    gains = cells.pivot(index="method", columns="pair", values="gain")
    assert gains.shape == (cells.method.nunique(), 3)
    assert {"irg", "irg:free_maximum"} <= set(gains.index)
    assert (gains.mean(axis=1, skipna=True) - cells.groupby("method").average_gain.first()).abs().max() < 1e-9


def test_the_gain_is_over_common_seeds_only(runs):
    few = runs[(runs.method != "scratch") | (runs.seed == 1)]
    cell = cells_frame(few).set_index(["method", "student"]).loc["kd", "vit_xs"]
    top1 = runs[(runs.student == "vit_xs") & (runs.seed == 1)].set_index("method").top1
    assert cell.n == 3 and cell.gain == pytest.approx(top1["kd"] - top1["scratch"], abs=1e-9)


def test_a_single_run_has_no_deviation_and_no_rank(runs):
    cells = cells_frame(runs[runs.seed == 0])
    assert cells[["sd", "rank", "letters"]].isna().all(axis=None) and (cells.n == 1).all() and not cells.level.any()


def test_excluded_runs_do_not_count(runs):
    changed = runs.assign(excluded=runs.excluded.mask(runs.method == "ofa", "recipe.epochs = 1 (standard 6)"))
    assert "ofa" in set(cells_frame(runs).method) - set(cells_frame(changed).method)
    assert "resnet_m" not in set(cells_frame(runs).student)


def test_scratch_counts_for_every_pair_of_its_student(runs):
    placed = place_on_pairs(runs)
    scratch = placed[placed.method == "scratch"]
    taught = runs[runs.teacher.notna()]
    assert set(scratch.pair) == set(taught.pair) | {"resnet_m@fashion_demo", "swin_m@fashion_demo"}
    again = taught[taught.student == "vit_xs"].assign(teacher="mixer_m", pair="mixer_m>vit_xs@fashion_demo")
    both = cells_frame(pd.concat([runs, again], ignore_index=True))
    means = both[(both.method == "scratch") & (both.student == "vit_xs")]
    assert len(means) == 2 and means["mean"].nunique() == 1


def test_without_runs_there_are_no_cells(runs):
    none = cakdbench.summarize(runs.iloc[:0])
    assert none.empty and list(none.columns) == list(cakdbench.summarize(runs[runs.method == "kd"]).columns)


def test_the_order_of_runs_changes_nothing(runs, cells):
    shuffled = cells_frame(runs.sample(frac=1, random_state=0))
    same = ["method", "pair", "n", "seeds", "mean", "sd", "gain", "average_gain", "rank"]
    pd.testing.assert_frame_equal(shuffled[same], cells[same])


def test_runs_of_which_none_counts_are_told_of():
    runs = cakdbench.load_results(Path(__file__).parents[2] / "leaderboards/results/kd")
    with pytest.warns(UserWarning, match="none of the 9 runs counts; the first: recipe.epochs = 1"):
        assert cakdbench.summarize(runs.assign(excluded="recipe.epochs = 1 (standard 6)")).empty
