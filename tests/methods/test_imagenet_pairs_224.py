"""One real step of every method on every published pair of ImageNet-1K whose networks are no pair of CIFAR-100 too."""

import pytest

from cakdbench.registry import get_method
from tests.methods.pairs_224 import (
    METHODS,
    assert_a_step_trains_the_student_and_leaves_the_teacher,
    assert_fbt_trains_what_each_loss_may,
    cell_of,
    published,
)

pytestmark = pytest.mark.slow


def models(pair):
    return pair.teacher_models[0], pair.student


ALL = published("imagenet_all")
TRIED = {models(pair) for pair in published("cifar_all")}
"""By the test of the other suite: there they differ from these in the classifier's width alone."""
PAIRS = [pair for pair in ALL if models(pair) not in TRIED]


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def cell(request):
    return cell_of(request.param)


def test_the_published_pairs_are_14():
    assert len(ALL) == 14 and len(PAIRS) == 6


@pytest.mark.parametrize("id", METHODS)
def test_a_step_trains_the_student_and_leaves_the_teacher(cell, id):
    assert_a_step_trains_the_student_and_leaves_the_teacher(get_method(id), cell)


def test_fbt_trains_what_each_loss_may(cell):
    assert_fbt_trains_what_each_loss_may(get_method("fbt"), cell)
