"""One real step of every method on every published pair, at 224 px with the pair's number of classes."""

import pytest
from method_lab import batch_for, gradients, make, parts_of, reached, student, teacher

from cakdbench.data.datasets import dataset_facts
from cakdbench.methods.fbt import FBT
from cakdbench.registry import get_method, method_ids, resolve_config
from cakdbench.suites import resolve_pairs

PAIRS = sorted({spec.pair for spec in resolve_pairs("cifar_all,imagenet_all")}, key=str)


AT_THE_END = ("dkd", "dist", "lskd", "rkd", "cc", "crd", "rsd")
"""Their losses enter the student where those of kd do, at logits and final feature: there their gradient is taken."""


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def cell(request):
    """The pair, its models and one batch; the methods share them."""
    classes = dataset_facts(request.param.dataset).num_classes
    frozen = teacher(request.param.teacher, classes, 224)
    model = student(request.param.student, classes, 224)
    return request.param, frozen, model, batch_for(frozen, size=2, classes=classes, pixels=224)


def step_of(method, cell):
    pair, frozen, model, batch = cell
    config = resolve_config(method, None, frozen.info, model.info, pair.dataset)
    if reason := method.refuses(frozen.info, model.info, config):
        assert method.id == "pcagl" and (frozen.kind == "cnn" or model.kind != "cnn"), reason
        return None, None
    trained = make(method, frozen, model, **vars(config))
    step = trained(batch)
    assert all(loss.isfinite() for loss in step.losses.values())
    return trained, step.losses


def trained_by(losses, method):
    found = gradients(sum(losses), method.named_parameters())
    assert all(grad is None or grad.isfinite().all() for grad in found.values())
    return reached(found)


def test_the_published_pairs_are_26():
    assert len(PAIRS) == 26


@pytest.mark.parametrize("id", [id for id in method_ids() if id != "fbt"])
def test_a_step_trains_the_student_and_leaves_the_teacher(cell, id):
    trained, losses = step_of(get_method(id), cell)
    if trained is None:
        return
    parameters = dict(trained.named_parameters())
    if id in AT_THE_END:
        last = {p for p in trained.student.net.get_classifier().parameters()}
        parameters = {name: p for name, p in parameters.items() if not name.startswith("student.") or p in last}
    found = gradients(sum(losses.values()), parameters.items())
    assert all(grad is None or grad.isfinite().all() for grad in found.values())
    assert {name for name in parameters if name.startswith("student.")} <= reached(found)
    assert all(p.grad is None and not p.requires_grad for p in cell[1].parameters())


def test_fbt_trains_what_each_loss_may(cell):
    trained, losses = step_of(FBT, cell)
    to_fused = [losses.pop("ofa_tf"), losses.pop("nce_tf")]
    parts = parts_of(trained)
    shared = parts["early"] | {"log_scale"} if trained.student_in_front else parts["late"] | parts["rest"]
    assert trained_by(to_fused, trained) == parts["l2g"] | shared
    assert trained_by(losses.values(), trained) == everything(trained) - parts["l2g"]


def everything(method):
    return {name for name, _ in method.named_parameters()}
