"""Which loss of FBT trains what: the table of cases A (CNN student), B (CNN teacher) and H (neither or both)."""

import copy

import pytest
import torch

from cakdbench.methods.fbt import FBT
from cakdbench.methods.kd import KD
from tests.methods.method_lab import batch_for, gradients, make, parts_of, reached, student, teacher

CASES = {
    "A": [("vit", "cnn"), ("swin", "cnn"), ("mixer", "mobilenet"), ("resmlp", "convnext")],
    "B": [("cnn", "vit"), ("convnext", "swin"), ("mobilenet", "mixer"), ("cnn", "resmlp")],
    "H": [("cnn", "mobilenet"), ("mixer", "vit"), ("swin", "resmlp"), ("vit", "swin"), ("mixer", "swin")],
}
PAIRS = [(case, *pair) for case, pairs in CASES.items() for pair in pairs]


def trained_by(method, batch, pair):
    losses = method(batch).losses
    loss = losses[f"ofa_{pair}"] + losses[f"nce_{pair}"]
    return reached(gradients(loss, method.named_parameters()))


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "{}-{}>{}".format(*pair))
def case(request):
    letter, t, s = request.param
    frozen = teacher(t)
    method = make(FBT, frozen, student(s))
    return letter, method, batch_for(frozen), frozen


def test_teacher_to_fused(case):
    letter, method, batch, _ = case
    parts = parts_of(method)
    shared = parts["late"] | parts["rest"] if letter == "B" else parts["early"] | {"log_scale"}
    assert trained_by(method, batch, "tf") == parts["l2g"] | shared


def test_teacher_to_student(case):
    _, method, batch, _ = case
    parts = parts_of(method)
    assert trained_by(method, batch, "ts") == parts["early"] | parts["late"] | parts["rest"]


def test_fused_to_student(case):
    letter, method, batch, _ = case
    parts = parts_of(method)
    rest = {"log_scale"} if letter == "B" else parts["rest"]
    assert trained_by(method, batch, "fs") == parts["early"] | parts["late"] | rest


def test_labels_train_the_student_alone(case):
    _, method, batch, _ = case
    parts = parts_of(method)
    assert reached(gradients(method(batch).losses["label"], method.named_parameters())) == (
        parts["early"] | parts["late"]
    )


@pytest.mark.parametrize(
    "t, s, config",
    [("vit", "cnn", {}), ("cnn", "mobilenet", {}), ("cnn", "mobilenet", {"fuse_front": "teacher"})],
)
def test_batch_norms_of_the_student_record_its_own_pass_and_no_other(t, s, config):
    frozen, model = teacher(t), student(s)
    alone, batch = make(KD, frozen, copy.deepcopy(model)), batch_for(frozen)
    method = make(FBT, frozen, model, **config)
    for _ in range(2):
        method(batch), alone(batch)
    expected = dict(alone.student.named_buffers())
    counted = [name for name in expected if name.endswith("num_batches_tracked")]
    assert counted and all(expected[name] == 2 for name in counted)
    for name, value in method.student.named_buffers():
        assert torch.equal(value, expected[name]), name


def test_a_student_back_normalises_by_the_batch_as_in_training():
    frozen, model = teacher("cnn"), student("cnn")
    method = make(FBT, frozen, model, fuse_front="teacher")
    feature = batch_for(frozen).teacher.stages[2]
    trained = method.fuse(feature).logits
    for buffer in model.buffers():
        buffer.add_(3)
    assert torch.equal(method.fuse(feature).logits, trained)


def test_equal_weights_leave_nothing_to_learn_from_the_teachers_logits():
    model = student("vit")
    frozen = copy.deepcopy(model).requires_grad_(False).eval()
    batch = batch_for(frozen)
    step = make(FBT, frozen, model)(batch)
    assert torch.autograd.grad(step.losses["ofa_ts"], step.logits)[0].abs().max() < 1e-7


@pytest.mark.parametrize("pair", ["ts", "tf", "fs"])
@pytest.mark.parametrize("t, s", [("vit", "cnn"), ("cnn", "vit")])
def test_a_transfer_of_weight_0_is_gone(t, s, pair):
    frozen = teacher(t)
    method = make(FBT, frozen, student(s), **{f"{pair}_weight": 0.0})
    losses = method(batch_for(frozen)).losses
    assert not [name for name in losses if name.endswith(pair)]
    assert len(losses) == 5
    trainable = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    assert reached(gradients(sum(losses.values()), trainable)) == {name for name, _ in trainable}
