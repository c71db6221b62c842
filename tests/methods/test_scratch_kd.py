"""scratch and kd as methods: labels of every form, nothing extra, the teacher's logits alone."""

import copy
import math

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torch.nn import functional as F

from cakdbench.methods.kd import KD, kd_loss
from cakdbench.methods.scratch import Scratch
from tests.methods.method_lab import CLASSES, batch_for, gradients, make, student, teacher

CRITERIA = {
    "int": (nn.CrossEntropyLoss(), False),
    "smoothed": (LabelSmoothingCrossEntropy(0.1), False),
    "soft": (SoftTargetCrossEntropy(), True),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_scratch_is_timms_criterion_to_the_bit(name):
    criterion, soft = CRITERIA[name]
    batch = batch_for(soft=soft)
    if soft:
        batch.target = 0.7 * batch.target + 0.3 * batch.target.flip(0)
    batch.criterion = criterion
    step = make(Scratch, None, student("vit"))(batch)
    assert step.total.item() == criterion(step.logits, batch.target).item()
    assert set(step.losses) == {"label"}


@pytest.mark.parametrize("name", CRITERIA)
def test_scratch_of_uniform_logits_is_log_of_the_classes(name):
    batch = batch_for(soft=CRITERIA[name][1])
    batch.criterion = CRITERIA[name][0]
    model = student("vit")
    for parameter in model.net.get_classifier().parameters():
        nn.init.zeros_(parameter)
    assert make(Scratch, None, model)(batch).total.item() == pytest.approx(math.log(CLASSES))


def test_scratch_needs_no_teacher_and_adds_no_parameter():
    assert not Scratch.needs
    assert make(Scratch, None, student("cnn")).extra_parameters() == 0


def test_kd_adds_the_weighted_divergence_to_the_weighted_label_loss():
    frozen = teacher("cnn")
    method, batch = make(KD, frozen, student("vit"), temperature=4.0, weight=0.9, label_weight=0.1), batch_for(frozen)
    step = method(batch)
    assert step.losses["label"].item() == pytest.approx(0.1 * F.cross_entropy(step.logits, batch.target).item())
    expected = 0.9 * kd_loss(step.logits, batch.teacher.logits, 4.0)
    assert step.losses["kd"].item() == pytest.approx(expected.item())


def test_kd_reads_logits_alone_and_adds_no_parameter():
    frozen = teacher("cnn")
    batch = batch_for(frozen)
    batch.teacher.pooled = batch.teacher.stages = None
    method = make(KD, frozen, student("cnn"))
    method(batch).total.backward()
    assert KD.needs == {"logits"} and method.extra_parameters() == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_kd_of_weight_0_has_the_gradient_of_scratch():
    frozen, model = teacher("cnn"), student("vit")
    batch = batch_for(frozen)
    kd = make(KD, frozen, copy.deepcopy(model), weight=0.0)
    scratch = make(Scratch, None, model)
    found = gradients(kd(batch).total, kd.named_parameters())
    for name, grad in gradients(scratch(batch).total, scratch.named_parameters()).items():
        assert torch.equal(grad, found[name]), name
