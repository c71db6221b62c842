"""Ranks, groups and the best of each pair on a board, from records with chosen predictions."""

import random

import numpy as np

from cakdbench.reports.blocks import board_results
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.sections import board_of
from tests.reports.pages import main_table
from tests.reports.synthetic import TestRules, column, printed, record

A, B = "cnn_mini>vit_mini@demo", "cnn_mini>mlp_mini@demo"
IMAGES = 2000


def made(skills, pairs=(A, B), seeds=(0, 1, 2)):
    """Records whose accuracy is that of chosen answers; method to the share it has right on each pair."""
    records, answers = [], {}
    for place, pair in enumerate(pairs):
        hardness = np.random.default_rng(place).random(IMAGES)
        for label, shares in skills.items():
            for seed in seeds:
                hits = hardness < shares[place] + 0.001 * seed
                each = record(label, pair, seed, 100 * hits.mean())
                records.append(each)
                answers[each.key] = hits
    return records, answers.get


def block(records, answers, pairs=(A, B)):
    return board_results("x", "X", [column(pair) for pair in pairs], records, TestRules(), answers).blocks[0]


SKILLS = {"scratch": (0.5, 0.5), "kd": (0.7, 0.7), "ofa": (0.7, 0.7), "fbt:no_infonce": (0.9, 0.6)}


def test_marks_stand_on_the_page():
    records, answers = made({k: v for k, v in SKILLS.items() if k != "fbt:no_infonce"})
    board = board_results("x", "X", [column(A), column(B)], records, TestRules(), answers)
    page = board_markdown(board_of(board))
    table = main_table(page)
    assert [table[name]["group"] for name in ("scratch", "KD", "OFA")] == ["b", "a", "a"]
    assert [table[name]["rank"] for name in ("scratch", "KD", "OFA")] == ["3.00", "1.50", "1.50"]
    assert "**70." in page and "**50." not in page


def test_the_order_of_records_changes_nothing():
    records, answers = made(SKILLS)
    wanted = block(records, answers)
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert block(records, answers) == wanted


def test_printed_methods_have_rows_and_printed_pairs_columns():
    values = {B: {"kd": (printed("70.00", pair=B),), "afd": (printed("71.00", "afd", pair=B),), "teacher": ()}}
    board = board_results("x", "X", [column(A), column(B)], [record("kd", A)], TestRules(values))
    (found,) = board.blocks
    assert [c.column.pair for c in found.columns] == [A, B]
    rows = {row.label: row for row in found.rows}
    assert list(rows) == ["scratch", "kd", "afd"] and rows["afd"].kind is None
    assert rows["kd"].scores[1].printed() == values[B]["kd"] and rows["kd"].scores[0].printed() == ()
    assert {m.label for m in board.missing} == {"scratch", "kd"}
