"""DKD: its two parts against mdistiller's way of computing them, how they make up KD, and the warm-up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.dkd import DKD, dkd_loss, nckd_loss, ramp, tckd_loss
from cakdbench.methods.kd import kd_loss
from tests.methods.method_lab import batch_for, make, student, teacher

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
temperatures = st.floats(0.5, 8.0)


def draw(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given_logits(seed, batch=5, classes=7):
    target = (torch.arange(batch) * 3 + seed) % classes
    return draw(seed, batch, classes).requires_grad_(), draw(seed + 1, batch, classes), target


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def mdistiller(student, teacher, target, alpha, beta, temperature):
    """The released way: logs of summed probabilities, the target pushed down by 1000."""
    mask = F.one_hot(target, student.shape[1])

    def binary(z):
        p = (z / temperature).softmax(1)
        return torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], 1)

    def others(z):
        return z / temperature - 1000.0 * mask

    scale = temperature**2 / len(target)
    tckd = F.kl_div(binary(student).log(), binary(teacher), reduction="sum") * scale
    nckd = F.kl_div(others(student).log_softmax(1), others(teacher).softmax(1), reduction="sum") * scale
    return alpha * tckd + beta * nckd


@few
@given(seeds, st.floats(0, 8), st.floats(0, 8), temperatures)
def test_value_and_gradient_are_mdistillers(seed, alpha, beta, temperature):
    student, teacher, target = given_logits(seed)
    found = dkd_loss(student, teacher, target, alpha, beta, temperature)
    expected = mdistiller(student, teacher, target, alpha, beta, temperature)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-7, atol=1e-10)


def test_gradient_passes_gradcheck():
    student, teacher, target = given_logits(3)
    assert torch.autograd.gradcheck(lambda z: dkd_loss(z, teacher, target, 1.0, 2.0, 3.0), student)


@few
@given(seeds, temperatures)
def test_non_target_part_weighed_by_the_rest_of_the_teacher_makes_kd(seed, temperature):
    student, teacher, target = given_logits(seed)
    for i in range(len(target)):
        given = student[i : i + 1], teacher[i : i + 1], target[i : i + 1]
        rest = 1 - (given[1] / temperature).softmax(1)[0, target[i]]
        made = tckd_loss(*given, temperature) + rest * nckd_loss(*given, temperature)
        assert torch.allclose(made, kd_loss(*given[:2], temperature), atol=1e-10)


@few
@given(seeds, temperatures)
def test_equal_logits_give_zero_and_others_more(seed, temperature):
    student, teacher, target = given_logits(seed)
    loss = dkd_loss(student, student.detach().clone(), target, 1.0, 2.0, temperature)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient(loss, student).abs().max() < 1e-12
    assert min(part(student, teacher, target, temperature) for part in (tckd_loss, nckd_loss)) > 0


@few
@given(seeds, st.floats(-20, 20), st.floats(-20, 20))
def test_non_target_part_does_not_see_the_target_logits(seed, a, b):
    student, teacher, target = given_logits(seed)
    hit = F.one_hot(target, student.shape[1])
    loss = nckd_loss(student, teacher, target, 2.0)
    assert torch.allclose(nckd_loss(student + a * hit, teacher + b * hit, target, 2.0), loss)
    assert not gradient(loss, student)[hit.bool()].any()


@few
@given(seeds)
def test_target_part_does_not_see_how_the_others_share(seed):
    student, teacher, target = given_logits(seed)
    hit = F.one_hot(target, student.shape[1]).bool()

    def shared_alike(z):
        """The same probability of the target; all others equal."""
        rest = z.masked_fill(hit, -torch.inf).logsumexp(1, keepdim=True)
        return torch.where(hit, z, rest - torch.tensor(z.shape[1] - 1.0).double().log())

    alike = tckd_loss(shared_alike(student), shared_alike(teacher), target)
    assert torch.allclose(alike, tckd_loss(student, teacher, target))


@few
@given(seeds, st.permutations(range(5)), st.permutations(range(7)))
def test_order_of_samples_and_classes_does_not_matter(seed, samples, classes):
    student, teacher, target = given_logits(seed)
    renamed = torch.tensor([classes.index(c) for c in range(7)])[target[samples]]
    moved = dkd_loss(student[samples][:, classes], teacher[samples][:, classes], renamed, 1.0, 2.0, 4.0)
    assert torch.allclose(moved, dkd_loss(student, teacher, target, 1.0, 2.0, 4.0))


def extreme(case):
    target = torch.tensor([0, 1])
    if case == "large":
        student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
        return student, torch.tensor([[-1e4, 1e4, 0.0], [-1e4, -1e4, 1e4]]), target
    if case == "wrong and sure":
        return torch.tensor([[-1e4, 1e4, 0.0]] * 2), torch.tensor([[1e4, -1e4, 0.0]] * 2), target
    return torch.full((2, 3), 7.0), torch.zeros(2, 3), target


@pytest.mark.parametrize("case", ["large", "wrong and sure", "constant"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_any_size_give_finite_losses_and_gradients(case, dtype):
    student, teacher, target = extreme(case)
    student = student.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = dkd_loss(student, teacher.to(dtype), target)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


def test_a_hopeless_target_still_pulls_the_student():
    student, teacher, target = extreme("wrong and sure")
    found = gradient(tckd_loss(student.requires_grad_(), teacher, target), student)
    assert found[0, 0].item() == pytest.approx(-0.5)


@pytest.mark.parametrize("epoch, warmup, share", [(0, 0, 1), (0, 1, 1), (0, 20, 0.05), (9, 20, 0.5), (19, 20, 1)])
def test_ramp_counts_epochs_from_one_as_mdistiller(epoch, warmup, share):
    assert ramp(epoch, warmup) == pytest.approx(share)
    assert ramp(epoch + 100, warmup) == 1


@pytest.mark.parametrize("epoch, share", [(0, 0.25), (1, 0.5), (7, 1.0)])
def test_a_step_adds_the_ramped_loss_to_the_weighted_label_loss(epoch, share):
    frozen = teacher("cnn")
    numbers = {"alpha": 0.7, "beta": 3.0, "temperature": 2.0}
    method = make(DKD, frozen, student("vit"), **numbers, warmup=4, weight=0.5, label_weight=0.1)
    batch = batch_for(frozen)
    batch.epoch = epoch
    step = method(batch)
    loss = dkd_loss(step.logits, batch.teacher.logits, batch.target, **numbers)
    assert set(step.losses) == {"label", "dkd"}
    assert step.losses["label"].item() == pytest.approx(0.1 * batch.label_loss(step.logits).item())
    assert step.losses["dkd"].item() == pytest.approx(0.5 * share * loss.item())


def test_defaults_are_those_of_ofas_code():
    config = DKD.Config()
    assert (config.alpha, config.beta, config.temperature, config.warmup) == (1, 2, 1, 0)
    assert (config.weight, config.label_weight) == (1, 1)
