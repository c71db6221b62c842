"""LSKD: what standardising does to logits, KD and DKD of the result, and logits without spread."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.dkd import dkd_loss
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.lskd import LSKD, standardize
from tests.methods.method_lab import batch_for, make, student, teacher

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def draw(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def loss_of(student, teacher, base="kd"):
    """What the method computes of logits, T = 2 and unweighted."""
    pair = standardize(student), standardize(teacher)
    return kd_loss(*pair, 2.0) if base == "kd" else dkd_loss(*pair, torch.arange(len(student)), 1.0, 2.0, 2.0)


@few
@given(seeds)
def test_rows_are_standardised_with_the_unbiased_deviation(seed):
    z = draw(seed, 4, 6)
    expected = [(row - row.mean()) / (1e-7 + row.std(ddof=1)) for row in z.numpy()]
    assert np.allclose(standardize(z).numpy(), expected, rtol=1e-12)


@few
@given(seeds)
def test_kd_of_it_is_the_released_codes_in_value_and_gradient(seed):
    student, teacher = draw(seed, 4, 6).requires_grad_(), draw(seed + 1, 4, 6)
    expected = 0.0
    for s, t in zip(student, teacher):
        s, t = ((z - z.mean()) / (1e-7 + (z - z.mean()).square().sum().div(5).sqrt()) / 2.0 for z in (s, t))
        expected += 4.0 / 4 * (t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum()
    found = loss_of(student, teacher)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("base", ["kd", "dkd"])
def test_gradient_passes_gradcheck(base):
    teacher = draw(2, 4, 6)
    assert torch.autograd.gradcheck(lambda z: loss_of(z, teacher, base), draw(1, 4, 6).requires_grad_())


@few
@given(seeds, st.floats(0.1, 50), st.floats(-50, 50), st.sampled_from(["kd", "dkd"]))
def test_shift_and_scale_of_any_sample_of_either_model_do_not_matter(seed, scale, shift, base):
    student, teacher = draw(seed, 4, 6), draw(seed + 1, 4, 6)
    scales = scale * torch.arange(1, 5, dtype=torch.float64)[:, None]
    moved = loss_of(scales * student + shift, teacher / scales - shift, base)
    assert torch.allclose(moved, loss_of(student, teacher, base), rtol=1e-4, atol=1e-6)


@few
@given(seeds, st.floats(0.1, 50), st.floats(-50, 50), st.sampled_from(["kd", "dkd"]))
def test_a_teacher_that_is_the_student_moved_and_scaled_gives_zero(seed, scale, shift, base):
    student = draw(seed, 4, 6)
    assert loss_of(student, scale * student + shift, base).item() == pytest.approx(0, abs=1e-8)


@few
@given(seeds, st.sampled_from(["kd", "dkd"]))
def test_gradient_changes_neither_shift_nor_scale(seed, base):
    student, teacher = draw(seed, 4, 6).requires_grad_(), draw(seed + 1, 4, 6)
    found = gradient(loss_of(student, teacher, base), student)
    centred = student.detach() - student.detach().mean(1, keepdim=True)
    assert found.abs().max() > 1e-6
    assert found.sum(1).abs().max() < 1e-9
    assert (found * centred).sum(1).abs().max() < 1e-5


CASES = {
    "large": (torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]]), torch.tensor([[-1e4, 1e4, 0.0], [-1e4, -1e4, 1e4]])),
    "constant": (torch.full((2, 3), 7.0), torch.zeros(2, 3)),
    "constant and large": (torch.full((2, 100), 1e4 / 3), torch.full((2, 100), -1e4 / 3)),
    "constant student": (torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])),
    "identical rows": (torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([[2.0, 0.0, 1.0]] * 2)),
}


@pytest.mark.parametrize("base", ["kd", "dkd"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_any_size_give_finite_losses_and_gradients(base, case, dtype):
    student, teacher = (z.clone().to(dtype) for z in CASES[case])
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = loss_of(student, teacher, base)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


def test_logits_without_spread_become_zero():
    assert not standardize(torch.full((2, 5), 0.5)).any()


def numbers(base):
    return {} if base == "kd" else {"alpha": 0.7, "beta": 3.0, "warmup": 4}


@pytest.mark.parametrize("base, share", [("kd", 1.0), ("dkd", 0.5)])
def test_a_step_is_the_base_on_standardised_logits(base, share):
    frozen = teacher("cnn")
    settings = {"temperature": 3.0, "weight": 6.0, "label_weight": 0.1, **numbers(base)}
    method, batch = make(LSKD, frozen, student("vit"), base=base, **settings), batch_for(frozen)
    batch.epoch = 1
    step = method(batch)
    assert set(step.losses) == {"label", "lskd"}
    assert step.losses["label"].item() == pytest.approx(0.1 * F.cross_entropy(step.logits, batch.target).item())
    pair = standardize(step.logits), standardize(batch.teacher.logits)
    loss = kd_loss(*pair, 3.0) if base == "kd" else dkd_loss(*pair, batch.target, 0.7, 3.0, 3.0)
    assert step.losses["lskd"].item() == pytest.approx(6 * share * loss.item())


def test_weight_multiplies_alpha_and_beta():
    pair = standardize(draw(1, 4, 6)), standardize(draw(2, 4, 6))
    ninefold = dkd_loss(*pair, torch.arange(4), 9.0, 18.0, 2.0)
    assert torch.allclose(9 * loss_of(draw(1, 4, 6), draw(2, 4, 6), "dkd"), ninefold)
