"""Verdicts on printed numbers, from records with chosen accuracies."""

import statistics

import pytest
from scipy import stats

from cakdbench.grid.suites import suites
from cakdbench.published.frame import load_published
from cakdbench.recipes import load_recipe
from cakdbench.reports.blocks import board_results
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_reproduction import Verdict, comparisons, reproduction_board
from cakdbench.reports.pages import FORMATS, suite_board
from cakdbench.reports.standard import Column
from cakdbench.results.load import Evidence
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
    return next(each for each in comparisons(board(*args, **options).blocks[0]) if each.printed.method == method)


def bound(accuracies, repeated=1, rounding=0.005):
    n = len(accuracies)
    return stats.t.ppf(0.975, n - 1) * statistics.stdev(accuracies) * (1 / n + 1 / repeated) ** 0.5 + rounding


def test_a_difference_within_the_noise_of_training_is_reproduced():
    ours = [78.5, 78.7, 78.9]
    found = compared(ours)
    assert found.difference == pytest.approx(78.7 - 78.74)
    assert found.tolerance == pytest.approx(bound(ours))
    assert found.verdict is Verdict.REPRODUCED
    assert (found.gain, found.printed_gain) == (pytest.approx(4.6), pytest.approx(78.74 - 74.01))


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
    page = board_markdown(reproduction_board([board([78.5, 78.7, 78.9])]))
    (table,) = tables(page)
    assert [row[1:5] for row in table[1:]] == [
        ["scratch", "74.01", "tas, Table 1", "74.10 ± 0.10"],
        ["kd", "78.74", "tas, Table 1", "78.70 ± 0.20"],
    ]
    assert [row[-1] for row in table[1:]] == ["reproduced"] * 2 and "2 reproduced." in page
    assert "not comparable" in page and page.endswith("\n")


def top5_board(ours, base):
    """A board of kd and scratch with chosen top-5 accuracies, and printed values of both metrics."""
    here = Column(
        "swin_t", "resnet18", "cifar100", "ofa_cifar_cnn", load_recipe("ofa_cifar_cnn").numbers(), 10_000, "ofa"
    )
    values = {
        "scratch": (printed("74.01", "scratch"), printed("92.00", "scratch", metric="top5")),
        "kd": (printed("78.74"), printed("94.20", metric="top5")),
    }
    records = []
    for method, top5 in (("kd", ours), ("scratch", base)):
        for seed, accuracy in enumerate(top5):
            run = record(method, PAIR, seed, 78.7 if method == "kd" else 74.0, config={})
            records.append(run.model_copy(update={"result": run.result.model_copy(update={"top5": accuracy})}))
    return board_results("x", "X", [here], records, AnyRules({PAIR: values}))


def test_a_printed_top_5_value_is_compared_with_our_top_5():
    ours = [94.0, 94.1, 94.3]
    block = top5_board(ours, [92.1, 92.1, 92.2]).blocks[0]
    (found,) = [each for each in comparisons(block, "top5") if each.printed.method == "kd"]
    assert found.difference == pytest.approx(statistics.fmean(ours) - 94.20)
    assert found.tolerance == pytest.approx(bound(ours))
    assert found.gain == pytest.approx((1.9 + 2.0 + 2.1) / 3)
    assert found.printed_gain == pytest.approx(2.20)
    assert found.verdict is Verdict.REPRODUCED
    assert {each.printed.metric for each in comparisons(block)} == {"top1"}


def test_top_5_has_a_section_of_its_own():
    page = board_markdown(reproduction_board([top5_board([94.0, 94.1, 94.3], [92.1, 92.1, 92.2])]))
    top1, top5 = tables(page)
    assert [row[2] for row in top1[1:]] == ["74.01", "78.74"] and [row[2] for row in top5[1:]] == ["92.00", "94.20"]
    assert "## X: top-5 accuracy" in page


def test_every_printed_top_5_value_of_a_known_student_is_on_the_page():
    """All of the ledger but teachers, and the student of PCA/GL's tables that cannot be made out."""
    known = list(suites().values())
    boards = [suite_board(name, Evidence()) for name in {s.board for s in known if s.protocol}]
    blocks = [block for made in boards for block in made.blocks]
    shown = {(c.column.pair, c.printed.method, c.printed.value) for block in blocks for c in comparisons(block, "top5")}
    frame = load_published()
    students = frame[(frame["metric"] == "top5") & (frame["method"] != "teacher") & (frame["student"] != "unknown")]
    assert len(students) == 122
    assert shown == set(students[["pair", "method", "printed"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("ending", FORMATS)
def test_the_page_is_in_every_format(ending):
    text = FORMATS[ending](reproduction_board([board([78.5, 78.7, 78.9])]))
    assert "78.74" in text and "reproduced" in text and "not comparable" in text
