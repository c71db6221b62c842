"""RSD: the cross-correlation against numpy's, what it does not see, features without spread, and the projector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.rsd import RSD, rsd_loss
from cakdbench.models.staged import StagedModel
from tests.methods.method_lab import batch_for, make, student, teacher

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def draw(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def by_loops(student, teacher, kappa, eps=1e-5):
    batch, width = student.shape
    total = 0.0
    for i in range(width):
        for j in range(width):
            s, t = student[:, i] - student[:, i].sum() / batch, teacher[:, j] - teacher[:, j].sum() / batch
            spread = ((s.square().sum() / batch + eps) * (t.square().sum() / batch + eps)).sqrt()
            c = (s * t).sum() / batch / spread
            total += (1 - c) ** 2 if i == j else kappa * c**2
    return total


@settings(max_examples=8, deadline=None)
@given(seeds, st.floats(0, 1), st.integers(2, 6))
def test_value_and_gradient_are_those_of_the_formula(seed, kappa, batch):
    student, teacher = draw(seed, batch, 4).requires_grad_(), draw(seed + 1, batch, 4)
    found, expected = rsd_loss(student, teacher, kappa), by_loops(student, teacher, kappa)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-7, atol=1e-10)
    assert torch.allclose(rsd_loss(student, teacher, kappa, "mean"), expected / 4)


@few
@given(seeds)
def test_the_matrix_is_numpys_correlation(seed):
    student, teacher = draw(seed, 9, 4), draw(seed + 1, 9, 4)
    c = np.corrcoef(student.numpy().T, teacher.numpy().T)[:4, 4:]
    on = ((1 - c.diagonal()) ** 2).sum()
    off = (c**2).sum() - (c.diagonal() ** 2).sum()
    assert rsd_loss(student, teacher, 0.3, eps=1e-12).item() == pytest.approx(on + 0.3 * off)


def test_gradient_passes_gradcheck():
    teacher = draw(2, 6, 4)
    assert torch.autograd.gradcheck(lambda x: rsd_loss(x, teacher, 0.5), draw(1, 6, 4).requires_grad_())


def decorrelated(seed, batch=12, width=4):
    """Columns without mean, orthogonal to each other, of unlike lengths."""
    x = draw(seed, batch, width)
    return torch.linalg.qr(x - x.mean(0)).Q * torch.arange(1, width + 1)


@few
@given(seeds)
def test_decorrelated_features_that_agree_give_zero(seed):
    x = decorrelated(seed).requires_grad_()
    loss = rsd_loss(x, x.detach().clone(), 1.0, eps=1e-12)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient(loss, x).abs().max() < 1e-6


@few
@given(seeds)
def test_decorrelated_features_in_other_places_cost_the_diagonal_and_the_redundancy(seed):
    x = decorrelated(seed)
    assert rsd_loss(x, x.roll(1, 1), 0.01, eps=1e-12).item() == pytest.approx(4 + 0.01 * 4)
    assert rsd_loss(x, -x, 0.01, eps=1e-12).item() == pytest.approx(4 * 4)


def test_redundant_dimensions_cost_though_they_agree():
    x = draw(1, 9, 1).expand(9, 4)
    assert rsd_loss(x, x, 0.01, eps=1e-12).item() == pytest.approx(0.01 * 4 * 3)


@few
@given(seeds, st.floats(0.1, 50), st.floats(-50, 50))
def test_shift_and_scale_of_any_dimension_of_either_model_do_not_matter(seed, scale, shift):
    student, teacher = draw(seed, 9, 4), draw(seed + 1, 9, 4)
    scales = scale * torch.arange(1, 5, dtype=torch.float64)
    moved = rsd_loss(scales * student + shift, teacher / scales - shift, 0.5, eps=1e-12)
    assert torch.allclose(moved, rsd_loss(student, teacher, 0.5, eps=1e-12), rtol=1e-6)


@few
@given(seeds, st.permutations(range(6)), st.permutations(range(4)))
def test_order_of_samples_and_of_dimensions_does_not_matter(seed, samples, dimensions):
    student, teacher = draw(seed, 6, 4), draw(seed + 1, 6, 4)
    moved = rsd_loss(student[samples][:, dimensions], teacher[samples][:, dimensions])
    assert torch.allclose(moved, rsd_loss(student, teacher))


CASES = {
    "zero": lambda: (torch.zeros(4, 5), torch.zeros(4, 5)),
    "zero student": lambda: (torch.zeros(4, 5), draw(1, 4, 5)),
    "identical rows": lambda: (draw(1, 1, 5).expand(4, 5), draw(2, 1, 5).expand(4, 5)),
    "large": lambda: (1e4 * draw(1, 4, 5), -1e4 * draw(2, 4, 5)),
    "identical and large": lambda: (1e4 * draw(1, 1, 5).expand(4, 5), 1e4 * draw(2, 4, 5)),
    "batch of 2": lambda: (draw(1, 2, 5), draw(2, 2, 5)),
}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_features_give_finite_losses_and_gradients(case, reduction, dtype):
    student, teacher = (x.clone().to(dtype) for x in CASES[case]())
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = rsd_loss(student, teacher, reduction=reduction)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


def test_features_without_spread_are_not_correlated():
    constant = torch.full((4, 5), 3.0)
    assert rsd_loss(constant, constant).item() == 5.0


@pytest.mark.parametrize("t, s, expansion", [("vit_xs", "resnet_s", 2), ("resnet18", "vit_xs", 4)])
def test_extra_parameters_are_the_projectors(t, s, expansion):
    with torch.device("meta"):
        models = StagedModel(s, 100, 64), StagedModel(t, 100, 64)
        extra = RSD(*models, RSD.Config(expansion=expansion)).extra_parameters()
    given, hidden, wanted = models[0].width, expansion * models[0].width, models[1].width
    assert extra == given * hidden + 2 * hidden + hidden * wanted


def test_losses_are_weighted_and_read_the_projected_final_feature():
    frozen = teacher("cnn")
    settings = {"kappa": 0.2, "reduction": "mean", "eps": 1e-3}
    method = make(RSD, frozen, student("vit"), weight=0.5, label_weight=0.1, **settings)
    batch = batch_for(frozen)
    step = method(batch)
    first, norm, _, last = method.projector
    hidden = method.student(batch.images).pooled @ first.weight.T
    hidden = F.batch_norm(hidden, None, None, norm.weight, norm.bias, training=True).relu()
    loss = rsd_loss(hidden @ last.weight.T, batch.teacher.pooled, **settings)
    assert set(step.losses) == {"label", "rsd"}
    assert step.losses["label"].item() == pytest.approx(0.1 * batch.label_loss(step.logits).item())
    assert step.losses["rsd"].item() == pytest.approx(0.5 * loss.item(), rel=1e-4)
