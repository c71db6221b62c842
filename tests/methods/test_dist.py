"""DIST: correlations against numpy's, what they do not see, and predictions that have none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.dist import DIST, dist_loss, inter_class_loss, intra_class_loss
from tests.methods.method_lab import batch_for, make, student, teacher

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def draw(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given_logits(seed, batch=5, classes=7):
    return draw(seed, batch, classes).requires_grad_(), draw(seed + 1, batch, classes)


def probabilities(seed):
    return tuple(z.detach().softmax(1) for z in given_logits(seed))


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def released(student, teacher, beta, gamma, tau):
    """Per sample and per class, with torch's cosine of centred vectors."""
    p, q = (student / tau).softmax(1), (teacher / tau).softmax(1)

    def relation(a, b):
        pairs = [(x - x.mean(), y - y.mean()) for x, y in zip(a, b)]
        return 1 - sum((x * y).sum() / (x.norm() * y.norm() + 1e-8) for x, y in pairs) / len(pairs)

    return tau**2 * (beta * relation(p, q) + gamma * relation(p.unbind(1), q.unbind(1)))


@few
@given(seeds, st.floats(0, 3), st.floats(0, 3), st.floats(0.5, 5))
def test_value_and_gradient_are_the_released_codes(seed, beta, gamma, tau):
    student, teacher = given_logits(seed)
    found, expected = dist_loss(student, teacher, beta, gamma, tau), released(student, teacher, beta, gamma, tau)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-7, atol=1e-10)


@few
@given(seeds)
def test_relations_are_numpys_correlations(seed):
    p, q = probabilities(seed)
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(p.numpy(), q.numpy())]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(p.numpy().T, q.numpy().T)]
    assert inter_class_loss(p, q).item() == pytest.approx(1 - np.mean(rows), abs=1e-5)
    assert intra_class_loss(p, q).item() == pytest.approx(1 - np.mean(columns), abs=1e-5)
    assert intra_class_loss(p.T, q.T).item() == inter_class_loss(p, q).item()


def test_gradient_passes_gradcheck():
    student, teacher = given_logits(3)
    assert torch.autograd.gradcheck(lambda z: dist_loss(z, teacher, 1.0, 2.0, 4.0), student)


@few
@given(seeds)
def test_equal_logits_give_zero(seed):
    student, _ = given_logits(seed)
    loss = dist_loss(student, student.detach().clone())
    assert loss.item() == pytest.approx(0, abs=1e-4)  # 1e-8 over the squared length of nearly constant columns


@few
@given(seeds, st.floats(0.1, 10), st.floats(-3, 3))
def test_affine_changes_of_probabilities_do_not_matter(seed, scale, shift):
    p, q = probabilities(seed)
    scales = scale * torch.arange(1, 6, dtype=torch.float64)[:, None]
    assert torch.allclose(inter_class_loss(scales * p + shift, q, 1e-12), inter_class_loss(p, q, 1e-12), atol=1e-6)
    scales = scale * torch.arange(1, 8, dtype=torch.float64)
    assert torch.allclose(intra_class_loss(scales * p + shift, q, 1e-12), intra_class_loss(p, q, 1e-12), atol=1e-6)


@few
@given(seeds)
def test_relations_lie_between_0_and_2(seed):
    p, q = probabilities(seed)
    for loss in (inter_class_loss, intra_class_loss):
        assert -1e-12 <= loss(p, q) <= 2
        assert loss(p, -p) == pytest.approx(2, abs=1e-4)


@few
@given(seeds, st.permutations(range(5)), st.permutations(range(7)))
def test_order_of_samples_and_classes_does_not_matter(seed, samples, classes):
    student, teacher = given_logits(seed)
    moved = dist_loss(student[samples][:, classes], teacher[samples][:, classes], 1.0, 2.0, 4.0)
    assert torch.allclose(moved, dist_loss(student, teacher, 1.0, 2.0, 4.0))


CASES = {
    "large": (torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]]), torch.tensor([[-1e4, 1e4, 0.0], [-1e4, -1e4, 1e4]])),
    "constant": (torch.full((2, 3), 7.0), torch.zeros(2, 3)),
    "constant student": (torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])),
    "identical rows": (torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([[2.0, 0.0, 1.0]] * 2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_any_size_give_finite_losses_and_gradients(case, dtype):
    student, teacher = (z.clone().to(dtype) for z in CASES[case])
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = dist_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


def test_what_does_not_vary_is_not_correlated():
    student, teacher = CASES["constant student"]
    assert dist_loss(student, teacher).item() == pytest.approx(2)


def test_eps_bounds_the_slope_where_logits_are_all_equal():
    student, teacher = torch.zeros(8, 16).double().requires_grad_(), draw(1, 8, 16)
    steep, flat = (gradient(dist_loss(student, teacher, eps=eps), student).norm() for eps in (1e-8, 1e-4))
    assert steep.item() == pytest.approx(1e4 * flat.item(), rel=1e-3)


def test_a_step_adds_the_weighted_loss_to_the_weighted_label_loss():
    frozen = teacher("cnn")
    numbers = {"beta": 0.7, "gamma": 3.0, "tau": 2.0, "eps": 1e-6}
    method, batch = make(DIST, frozen, student("vit"), **numbers, weight=0.5, label_weight=0.1), batch_for(frozen)
    step = method(batch)
    assert set(step.losses) == {"label", "dist"}
    assert step.losses["label"].item() == pytest.approx(0.1 * F.cross_entropy(step.logits, batch.target).item())
    loss = dist_loss(step.logits, batch.teacher.logits, **numbers)
    assert step.losses["dist"].item() == pytest.approx(0.5 * loss.item())
