"""Verdicts on printed numbers, from records with chosen accuracies."""

import statistics

import pytest
from scipy import stats

from cakdbench.recipes import load_recipe
from cakdbench.reports.blocks import board_results
from cakdbench.reports.eligibility import Column
from cakdbench.reports.page_reproduction import Verdict, comparisons, reproduction_markdown
from tests.reports.pages import tables
from tests.reports.synthetic import TestRules, printed, record

PAIR = "swin_t>resnet18@cifar100"


class AnyRules(TestRules):
    def differences(self, record, column):
        return []


def board(accuracies, value="78.74", source="tas", method="kd", changes=None):
    numbers = load_recipe("ofa_cifar_cnn").numbers() | (changes or {})
    here = Column("swin_t", "resnet18", "cifar100", "ofa_cifar_cnn", numbers, 10_000, "ofa")
    values = {PAIR: {"scratch": (printed("74.01", "scratch", source),), method: (printed(value, method, source),)}}
    records = [record(method, PAIR, seed, top1, config={}) for seed, top1 in enumerate(accuracies)]
    records += [record("scratch", PAIR, seed, 74.0 + 0.1 * seed) for seed in range(len(accuracies))]
    return board_results("x", "X", [here], records, AnyRules(values))


def compared(*args, **options):
    method = options.get("method", "kd")
    return next(each for each in comparisons(board(*args, **options).blocks[0]) if each.method == method)


def bound(accuracies, repeated=1, rounding=0.005):
    n = len(accuracies)
    return stats.t.ppf(0.975, n - 1) * statistics.stdev(accuracies) * (1 / n + 1 / repeated) ** 0.5 + rounding


def test_a_difference_within_the_noise_of_training_is_reproduced():
    ours = [78.5, 78.7, 78.9]
    found = compared(ours)
    assert found.difference == pytest.approx(78.7 - 78.74)
    assert found.tolerance == pytest.approx(bound(ours))
    assert found.verdict is Verdict.REPRODUCED
    assert found.gains == (pytest.approx(4.6), pytest.approx(78.74 - 74.01))


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_verdict_turns_at_the_tolerance(sign):
    ours = [78.5, 78.7, 78.9]
    edge = 78.7 + sign * bound(ours)
    assert compared(ours, f"{edge - sign * 0.01:.4f}").verdict is Verdict.REPRODUCED
    assert compared(ours, f"{edge + sign * 0.01:.4f}").verdict is Verdict.NOT_REPRODUCED


def test_repetitions_of_the_source_and_its_digits_count():
    ours = [80.0, 80.2, 80.4]
    own = compared(ours, "81.22", "fofa", method="fofa")
    assert own.tolerance == pytest.approx(bound(ours, repeated=3))
    assert compared(ours, "81.2").tolerance == pytest.approx(bound(ours, rounding=0.05))


@pytest.mark.parametrize("ours", [[78.7], [78.6, 78.8]])
def test_fewer_than_three_seeds_are_not_comparable(ours):
    assert compared(ours).verdict is Verdict.NOT_COMPARABLE


def test_a_setting_that_no_statement_has_is_not_comparable_and_named():
    found = compared([78.5, 78.7, 78.9], changes={"epochs": 30})
    assert found.verdict is Verdict.NOT_COMPARABLE and found.contradicted == ("epochs: 30 here",)


def test_without_a_run_it_is_not_yet_measured():
    found = compared([])
    assert found.verdict is Verdict.NOT_MEASURED and found.difference is None


def test_the_page_has_a_line_for_every_printed_number():
    page = reproduction_markdown([board([78.5, 78.7, 78.9])])
    (table,) = tables(page)
    assert [row[1:5] for row in table[1:]] == [
        ["scratch", "74.01", "tas, Table 1", "74.10 ± 0.10"],
        ["kd", "78.74", "tas, Table 1", "78.70 ± 0.20"],
    ]
    assert [row[-1] for row in table[1:]] == ["reproduced"] * 2 and "2 reproduced." in page
    assert "not comparable" in page and page.endswith("\n")
