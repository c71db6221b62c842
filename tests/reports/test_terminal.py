"""Boards as the terminal shows them."""

import io

import pytest
from rich.console import Console, Group

from cakdbench.reports.blocks import board_results
from cakdbench.reports.sections import board_of
from cakdbench.reports.terminal import board_terminal
from tests.reports.synthetic import CONFIGS, RECIPE, TestRules, column, record

PAIRS = [f"{teacher}>{student}@demo" for teacher in ("cnn_mini", "msa_mini") for student in ("vit_mini", "mlp_mini")]


def shown(board, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Group(*board_terminal(board, width)))
    return console.file.getvalue()


def page(records, pairs=PAIRS):
    return board_of(board_results("demo", "Demo [x]", [column(pair) for pair in pairs], records, TestRules()))


def make_board(pairs=PAIRS):
    records = [record(m, p, s, 80.0 + s) for p in pairs for m in ("scratch", "kd", "ofa") for s in (0, 1)]
    records.append(record("kd", pairs[0], 7, recipe=RECIPE | {"epochs": 1}))
    return page(records, pairs)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_pair_is_shown_once_whatever_the_width(width):
    text = shown(make_board(), width)
    assert max(map(len, text.splitlines())) <= width
    for student in ("vit_mini", "mlp_mini"):
        assert text.partition("How sure")[0].count(f"→ {student}") == 2
    assert text.count("80.50 ± 0.71 (+0.00)") == 2 * len(PAIRS)
    assert text.count("average") == 1


def test_a_wide_terminal_has_one_table_and_a_narrow_one_several():
    assert shown(make_board(), 200).count("teacher") == 1
    assert shown(make_board(), 60).count("teacher") > 1


def test_changed_runs_are_listed_with_what_differs():
    text = shown(make_board(), 120)
    assert "Runs with changed settings (not comparable)" in text
    assert "recipe.epochs = 1 (standard 8)" in text


def test_a_board_without_standard_runs_says_so_instead_of_an_empty_table():
    odd = record("kd", PAIRS[0], 0, 12.5, recipe=RECIPE | {"epochs": 1})
    board = page([odd])
    text = shown(board, 60)
    assert "no standard run yet" in text and "average" not in text
    assert "12.50" in text


def test_titles_with_brackets_and_missing_runs_are_text():
    board = page([record("ofa", PAIRS[0])], PAIRS[:1])
    text = shown(board, 80)
    assert text.startswith("Demo [x]\n")
    assert "Not measured yet: 2 runs" in " ".join(text.split())


def test_all_methods_fit_sixty_columns():
    records = [record(m, PAIRS[0], s) for m in CONFIGS for s in range(3)]
    board = page(records, PAIRS[:1])
    assert max(map(len, shown(board, 60).splitlines())) <= 60
