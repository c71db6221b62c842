"""The pure losses of kd, ofa and fbt: values, invariants, gradients, and logits of any size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.fbt import feature_mse_loss, info_nce_loss
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.ofa import ofa_loss

seeds = st.integers(0, 2**31)
temperatures = st.floats(0.5, 8.0)


def draw(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_of(seed, batch=4, classes=6):
    """Student logits, teacher logits and hard targets in double precision."""
    target = torch.arange(batch) * 7 % classes
    return draw(seed, batch, classes).requires_grad_(), draw(seed + 1, batch, classes), target


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def kl(p_logits, q_logits):
    p = p_logits.softmax(1)
    return (p * (p_logits.log_softmax(1) - q_logits.log_softmax(1))).sum(1).mean()


def entropy(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


class TestKD:
    @given(seeds, temperatures)
    def test_equal_logits_give_zero_loss_and_gradient(self, seed, temperature):
        student, _, _ = logits_of(seed)
        loss = kd_loss(student, student.detach().clone(), temperature)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert gradient(loss, student).abs().max() < 1e-12

    @given(seeds, temperatures, st.floats(-50, 50))
    def test_a_constant_added_to_a_sample_changes_nothing(self, seed, temperature, shift):
        student, teacher, _ = logits_of(seed)
        shifts = shift * torch.arange(1, 5, dtype=torch.float64)[:, None]
        loss = kd_loss(student, teacher, temperature)
        assert torch.allclose(kd_loss(student + shifts, teacher - shifts, temperature), loss, atol=1e-9)

    @given(seeds, temperatures)
    def test_is_never_negative(self, seed, temperature):
        student, teacher, _ = logits_of(seed)
        assert kd_loss(student, teacher, temperature) >= 0

    @given(seeds)
    def test_hot_limit_is_the_squared_distance_of_centred_logits(self, seed):
        student, teacher, _ = logits_of(seed)
        difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
        limit = difference.square().sum(1).mean() / (2 * student.shape[1])
        assert kd_loss(student, teacher, 1e4).item() == pytest.approx(limit.item(), rel=1e-2)

    @given(seeds, temperatures)
    def test_gradient_is_the_difference_of_probabilities(self, seed, temperature):
        student, teacher, _ = logits_of(seed)
        expected = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
        found = gradient(kd_loss(student, teacher, temperature), student)
        assert torch.allclose(found, temperature * expected / len(student))


class TestOFA:
    @given(seeds, temperatures)
    def test_gamma_1_is_kl_plus_the_teachers_entropy(self, seed, temperature):
        student, teacher, target = logits_of(seed)
        loss = ofa_loss(student, teacher, target, 1.0, temperature)
        p, q = teacher / temperature, student / temperature
        assert torch.allclose(loss - entropy(p), kl(p, q))

    @given(seeds)
    def test_gamma_1_has_the_gradient_of_kd(self, seed):
        student, teacher, target = logits_of(seed)
        found = gradient(ofa_loss(student, teacher, target), student)
        assert torch.allclose(found, gradient(kd_loss(student, teacher), student))

    @given(seeds)
    def test_gamma_1_is_least_where_student_and_teacher_agree(self, seed):
        student, teacher, target = logits_of(seed)
        least = ofa_loss(teacher, teacher, target)
        assert least <= ofa_loss(student, teacher, target) + 1e-12
        agreeing = teacher.clone().requires_grad_()
        assert gradient(ofa_loss(agreeing, teacher, target), agreeing).abs().max() < 1e-12

    @given(seeds, st.floats(1.0, 3.0), st.floats(0.01, 1.0))
    def test_a_larger_gamma_moves_weight_to_the_target(self, seed, gamma, more):
        _, teacher, target = logits_of(seed)

        def weights(gamma):
            # the gradient by the log-probabilities, read through log_softmax's fixed points
            log_q = torch.zeros_like(teacher).log_softmax(1).requires_grad_()
            p = teacher.softmax(1)
            loss = ofa_loss(log_q, teacher, target, gamma)
            total = (gradient(loss, log_q) * -len(teacher)).detach()
            hit = F.one_hot(target, p.shape[1])
            amount = ((p + hit) ** gamma - hit).sum(1, keepdim=True)
            return total + amount * log_q.detach().exp()

        hit = F.one_hot(target, teacher.shape[1]).bool()
        low, high = weights(gamma), weights(gamma + more)
        assert (high[hit] > low[hit]).all()
        assert (high[~hit] <= low[~hit] + 1e-12).all()

    @given(seeds, st.floats(0.5, 3.0))
    def test_sure_and_right_teacher_scales_the_cross_entropy(self, seed, gamma):
        student, _, target = logits_of(seed)
        sure = 1e4 * F.one_hot(target, student.shape[1]).double()
        expected = (2**gamma - 1) * F.cross_entropy(student, target)
        assert torch.allclose(ofa_loss(student, sure, target, gamma), expected)

    @given(seeds, st.floats(0.5, 3.0))
    def test_sure_and_wrong_teacher_gives_its_class_whatever_gamma(self, seed, gamma):
        student, _, target = logits_of(seed)
        wrong = (target + 1) % student.shape[1]
        sure = 1e4 * F.one_hot(wrong, student.shape[1]).double()
        assert torch.allclose(ofa_loss(student, sure, target, gamma), F.cross_entropy(student, wrong))

    @given(seeds, st.floats(0.5, 3.0))
    def test_paper_form_is_the_printed_equation(self, seed, gamma):
        student, teacher, target = logits_of(seed)
        p, log_q = teacher.softmax(1), student.log_softmax(1)
        expected = 0.0
        for b, y in enumerate(target.tolist()):
            for c in range(p.shape[1]):
                expected -= ((1 + p[b, c]) ** gamma if c == y else p[b, c]) * log_q[b, c] / len(target)
        assert torch.allclose(ofa_loss(student, teacher, target, gamma, form="paper"), expected)

    @given(seeds, st.floats(0.5, 3.0), temperatures)
    def test_code_form_raises_every_class_to_gamma(self, seed, gamma, temperature):
        student, teacher, target = logits_of(seed)
        p, log_q = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
        expected = 0.0
        for b, y in enumerate(target.tolist()):
            for c in range(p.shape[1]):
                hit = float(c == y)
                expected -= ((p[b, c] + hit) ** gamma - hit) * log_q[b, c] / len(target)
        loss = ofa_loss(student, teacher, target, gamma, temperature)
        assert torch.allclose(loss, expected)
        assert torch.allclose(gradient(loss, student), gradient(expected, student))

    @given(seeds)
    def test_paper_form_at_gamma_1_is_the_code_form_plus_the_label_loss(self, seed):
        student, teacher, target = logits_of(seed)
        code = ofa_loss(student, teacher, target) + F.cross_entropy(student, target)
        assert torch.allclose(ofa_loss(student, teacher, target, form="paper"), code)


class TestInfoNCE:
    @pytest.mark.parametrize("tau", [1.0, 0.07, 0.01])
    def test_orthonormal_features_give_the_closed_form(self, tau):
        features = torch.eye(5, 8, dtype=torch.float64)
        expected = math.log(1 + 4 * math.exp(-1 / tau))
        assert info_nce_loss(features, features, 1 / tau).item() == pytest.approx(expected, abs=1e-12)

    @given(st.integers(1, 9), st.floats(1, 100))
    def test_identical_features_give_log_of_the_batch(self, batch, scale):
        features = torch.ones(batch, 4)
        assert info_nce_loss(features, features, scale).item() == pytest.approx(math.log(batch), abs=1e-5)

    @given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
    def test_lengths_do_not_matter(self, seed, a, b):
        learner, giver = draw(seed, 4, 8), draw(seed + 1, 4, 8)
        loss = info_nce_loss(learner, giver, 14.0)
        assert torch.allclose(info_nce_loss(a * learner, b * giver, 14.0), loss)

    @given(seeds, st.permutations(range(4)))
    def test_order_of_the_batch_does_not_matter(self, seed, order):
        learner, giver = draw(seed, 4, 8), draw(seed + 1, 4, 8)
        loss = info_nce_loss(learner, giver, 14.0)
        assert torch.allclose(info_nce_loss(learner[order], giver[order], 14.0), loss)

    def test_anchors_are_the_learners(self):
        learner = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        giver = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        per_anchor = [math.log(1 + math.exp(-5)), 5 + math.log(1 + math.exp(-5))]
        assert info_nce_loss(learner, giver, 5.0).item() == pytest.approx(sum(per_anchor) / 2)

    @given(seeds, st.floats(1, 50))
    def test_value_and_gradient_are_those_of_the_printed_sum(self, seed, scale):
        learner, giver = draw(seed, 4, 8).requires_grad_(), draw(seed + 1, 4, 8)
        expected = 0.0
        for i in range(4):
            close = [scale * F.cosine_similarity(learner[i], giver[j], dim=0) for j in range(4)]
            expected = expected - (close[i] - torch.stack(close).logsumexp(0)) / 4
        loss = info_nce_loss(learner, giver, scale)
        assert torch.allclose(loss, expected)
        assert torch.allclose(gradient(loss, learner), gradient(expected, learner))

    def test_mse_is_the_mean_over_elements(self):
        assert feature_mse_loss(torch.zeros(2, 4), torch.full((2, 4), 3.0)).item() == 9.0


LOGIT_LOSSES = {
    "kd": lambda s, t, y: kd_loss(s, t, 4.0),
    "ofa": lambda s, t, y: ofa_loss(s, t, y, 1.5),
    "ofa paper": lambda s, t, y: ofa_loss(s, t, y, 1.5, form="paper"),
}


@pytest.mark.parametrize("name", LOGIT_LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_logits_of_any_size_give_finite_losses_and_gradients(name, scale):
    student = torch.tensor([[scale, -scale, 0.0], [-scale, scale, scale]], requires_grad=True)
    teacher = torch.tensor([[-scale, scale, 0.0], [-scale, -scale, scale]])
    loss = LOGIT_LOSSES[name](student, teacher, torch.tensor([0, 1]))
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


@settings(deadline=None)
@given(seeds, st.sampled_from(sorted(LOGIT_LOSSES)), st.permutations(range(4)))
def test_logit_losses_do_not_depend_on_the_order_of_the_batch(seed, name, order):
    student, teacher, target = logits_of(seed)
    loss = LOGIT_LOSSES[name](student, teacher, target)
    assert torch.allclose(LOGIT_LOSSES[name](student[order], teacher[order], target[order]), loss)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_raised_and_autocast_is_off(name, dtype):
    student, teacher, target = logits_of(3, batch=8)
    half = (student * 100).to(dtype), (teacher * 100).to(dtype), target
    full = LOGIT_LOSSES[name](half[0].float(), half[1].float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOGIT_LOSSES[name](*half)
    assert loss.dtype == torch.float32 and loss.item() == full.item()


def test_info_nce_keeps_its_precision_under_autocast():
    learner, giver = draw(1, 8, 16).float(), draw(2, 8, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce_loss(learner, giver, torch.tensor(14.0))
    assert loss.item() == info_nce_loss(learner, giver, torch.tensor(14.0)).item()
