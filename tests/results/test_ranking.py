"""Ranks, groups and the best of a block, from records with chosen predictions."""

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


def test_groups_and_ranks_of_known_truth():
    found = block(*made({k: v for k, v in SKILLS.items() if k != "fbt:no_infonce"})).standings
    assert found.letters == {"kd": "a", "ofa": "a", "scratch": "b"}
    assert found.ranks == {"kd": 1.5, "ofa": 1.5, "scratch": 3.0}
    assert found.inseparable == {frozenset(("kd", "ofa"))}
    assert found.level == (frozenset(("kd", "ofa")),) * 2


def test_a_method_without_all_pairs_is_unranked_but_may_be_the_best_of_one():
    records, answers = made(SKILLS)
    records = [r for r in records if r.identity.method.id != "fbt" or r.identity.student == "vit_mini"]
    found = block(records, answers).standings
    assert "fbt:no_infonce" not in found.ranks | found.letters
    assert found.level == (frozenset({"fbt:no_infonce"}), frozenset({"kd", "ofa"}))


def test_without_predictions_or_a_third_seed_nothing_is_grouped():
    for records, answers, ranked in ((*made(SKILLS, seeds=(0, 1)), 0), (made(SKILLS)[0], lambda key: None, 4)):
        found = block(records, answers).standings
        assert found.letters == {} and found.inseparable == frozenset() and found.level == (frozenset(),) * 2
        assert len(found.ranks) == ranked


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
    assert rows["kd"].scores[1].printed == values[B]["kd"] and rows["kd"].scores[0].printed == ()
    assert {m.label for m in board.missing} == {"scratch", "kd"}
