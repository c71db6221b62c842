"""One real step of every method on every published pair of CIFAR-100."""

import pytest

from cakdbench.registry import get_method
from tests.methods.pairs_224 import (
    METHODS,
    assert_a_step_trains_the_student_and_leaves_the_teacher,
    assert_fbt_trains_what_each_loss_may,
    cell_of,
    published,
)

PAIRS = published("cifar_all")


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def cell(request):
    return cell_of(request.param)


def test_the_published_pairs_are_12():
    assert len(PAIRS) == 12


@pytest.mark.parametrize("id", METHODS)
def test_a_step_trains_the_student_and_leaves_the_teacher(cell, id):
    assert_a_step_trains_the_student_and_leaves_the_teacher(get_method(id), cell)


def test_fbt_trains_what_each_loss_may(cell):
    assert_fbt_trains_what_each_loss_may(get_method("fbt"), cell)
