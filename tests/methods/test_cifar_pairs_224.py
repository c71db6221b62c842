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
QUICK = {
    "convnext_t>resmlp_s12@cifar100",
    "convnext_t>swin_p@cifar100",
    "mixer_b16>deit_t@cifar100",
    "swin_t>mobilenetv2@cifar100",
    "vit_s>resnet18@cifar100",
}
"""Every student and every teacher once."""
MARKED = [pytest.param(pair, marks=[] if str(pair) in QUICK else pytest.mark.slow) for pair in PAIRS]


@pytest.fixture(scope="module", params=MARKED, ids=str)
def cell(request):
    return cell_of(request.param)


def test_the_published_pairs_are_12():
    assert len(PAIRS) == 12 and QUICK <= {*map(str, PAIRS)}
    quick = [pair for pair in PAIRS if str(pair) in QUICK]
    for models in (lambda pair: pair.teacher, lambda pair: pair.student):
        assert {*map(models, quick)} == {*map(models, PAIRS)}


@pytest.mark.parametrize("id", METHODS)
def test_a_step_trains_the_student_and_leaves_the_teacher(cell, id):
    assert_a_step_trains_the_student_and_leaves_the_teacher(get_method(id), cell)


def test_fbt_trains_what_each_loss_may(cell):
    assert_fbt_trains_what_each_loss_may(get_method("fbt"), cell)
