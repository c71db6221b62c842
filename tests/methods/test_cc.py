"""CC: both forms against loops, what they do and do not depend on, and the method as a whole."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods.cc import CC, cc_loss, cc_peng_loss
from cakdbench.models.staged import StagedModel
from tests.methods.method_lab import batch_for, make, student, teacher

seeds = st.integers(0, 2**31)
few = settings(max_examples=20, deadline=None)
LOSSES = {"ofa": cc_loss, "peng": cc_peng_loss}


def draw(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed, size):
    return torch.linalg.qr(draw(seed, size, size))[0]


def neighbours(student, teacher):
    """The released formula, one product at a time."""
    total, (batch, dim) = 0.0, student.shape
    for b in range(batch - 1):
        for k in range(dim):
            total += abs(student[b, k] - teacher[b, k]).item() * abs(student[b + 1, k] - teacher[b + 1, k]).item()
    return total / (batch - 1)


def kernel(x, y, gamma, order):
    cosine = sum(a * b for a, b in zip(x, y)) / math.hypot(*x) / math.hypot(*y)
    return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))


def kernel_matrices(student, teacher, gamma, order):
    student, teacher = student.tolist(), teacher.tolist()
    batch = range(len(student))
    pairs = [(student[i], student[j], teacher[i], teacher[j]) for i in batch for j in batch]
    differences = [kernel(a, b, gamma, order) - kernel(c, d, gamma, order) for a, b, c, d in pairs]
    return sum(d**2 for d in differences) / len(batch) ** 2


class TestReleased:
    @few
    @given(seeds, st.integers(2, 6), st.integers(1, 5))
    def test_is_the_mean_product_of_neighbours_errors(self, seed, batch, dim):
        e_s, e_t = draw(seed, batch, dim), draw(seed + 1, batch, dim)
        assert cc_loss(e_s, e_t).item() == pytest.approx(neighbours(e_s, e_t), rel=1e-12)

    def test_gradients_are_those_of_the_value(self):
        pair = draw(1, 4, 3).requires_grad_(), draw(2, 4, 3).requires_grad_()
        assert torch.autograd.gradcheck(cc_loss, pair)

    @few
    @given(seeds)
    def test_is_0_where_embeddings_agree_and_never_negative(self, seed):
        e_s, e_t = draw(seed, 5, 4), draw(seed + 1, 5, 4)
        assert cc_loss(e_s, e_s.clone()).item() == 0 and cc_loss(e_s, e_t).item() > 0

    @pytest.mark.parametrize("first", [0, 1])
    def test_is_0_where_every_other_sample_matches(self, first):
        e_s, e_t = draw(1, 6, 4), draw(2, 6, 4)
        e_s[first::2] = e_t[first::2]
        assert cc_loss(e_s, e_t).item() == 0

    def test_depends_on_the_order_of_the_batch_but_not_on_its_direction(self):
        e_s, e_t = draw(1, 5, 4), draw(2, 5, 4)
        loss, order = cc_loss(e_s, e_t), [1, 0, 2, 3, 4]
        assert cc_loss(e_s.flip(0), e_t.flip(0)).item() == pytest.approx(loss.item(), rel=1e-12)
        assert cc_loss(e_s[order], e_t[order]).item() != pytest.approx(loss.item(), rel=1e-3)

    @few
    @given(seeds, st.floats(-9, 9))
    def test_scales_with_the_square_of_both(self, seed, a):
        e_s, e_t = draw(seed, 5, 4), draw(seed + 1, 5, 4)
        assert cc_loss(a * e_s, a * e_t).item() == pytest.approx(a**2 * cc_loss(e_s, e_t).item(), rel=1e-9, abs=1e-12)

    def test_one_sample_has_no_neighbour(self):
        assert cc_loss(draw(1, 1, 4), draw(2, 1, 4)).item() == 0


class TestPeng:
    @few
    @given(seeds, st.floats(0.1, 2.0), st.integers(1, 4), st.integers(2, 5))
    def test_is_the_mean_squared_difference_of_the_kernels(self, seed, gamma, order, batch):
        e_s, e_t = draw(seed, batch, 3), draw(seed + 1, batch, 5)
        expected = kernel_matrices(e_s, e_t, gamma, order)
        assert cc_peng_loss(e_s, e_t, gamma, order).item() == pytest.approx(expected, rel=1e-9)

    def test_defaults_are_the_papers(self):
        e_s, e_t = draw(1, 4, 3), draw(2, 4, 3)
        assert cc_peng_loss(e_s, e_t).item() == pytest.approx(kernel_matrices(e_s, e_t, 0.4, 2), rel=1e-9)

    def test_gradients_are_those_of_the_value(self):
        pair = draw(1, 4, 3).requires_grad_(), draw(2, 4, 3).requires_grad_()
        assert torch.autograd.gradcheck(cc_peng_loss, pair)

    @few
    @given(seeds)
    def test_is_0_for_rotated_features(self, seed):
        e_t = draw(seed, 5, 4)
        assert cc_peng_loss(e_t @ rotation(seed + 1, 4), e_t).item() == pytest.approx(0, abs=1e-20)
        assert cc_peng_loss(draw(seed + 2, 5, 4), e_t).item() > 1e-6

    @few
    @given(seeds, st.permutations(range(5)), st.floats(1e-4, 1e3))
    def test_neither_order_nor_lengths_matter(self, seed, order, length):
        e_s, e_t = draw(seed, 5, 4), draw(seed + 1, 5, 4)
        loss = pytest.approx(cc_peng_loss(e_s, e_t).item(), rel=1e-9)
        assert cc_peng_loss(e_s[order], e_t[order]).item() == loss
        lengths = length * torch.arange(1, 6, dtype=torch.float64)[:, None]
        assert cc_peng_loss(lengths * e_s, e_t / lengths).item() == loss

    def test_high_orders_are_the_gaussian_kernel(self):
        x = torch.nn.functional.normalize(draw(1, 4, 3), dim=1)
        gaussian = torch.exp(-0.4 * torch.cdist(x, x).square())
        zero = torch.zeros(4, 1, dtype=torch.float64)  # all cosines 0: the kernel is exp(-2 gamma)
        expected = (gaussian - math.exp(-0.8)).square().mean()
        assert cc_peng_loss(x, zero, 0.4, 30).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("given", ["large", "constant", "identical rows", "zero", "equal"])
def test_extreme_embeddings_give_finite_losses_and_gradients(loss, autocast, given):
    e_s, e_t = draw(1, 2, 8).float(), draw(2, 2, 8).float()
    if given == "large":
        e_s, e_t = 1e4 * e_s.sign(), 1e4 * e_t.sign()
    elif given == "constant":
        e_s = torch.full((2, 8), 3.0)
    elif given == "identical rows":
        e_s = e_s[:1].repeat(2, 1)
    else:
        e_s = torch.zeros(2, 8) if given == "zero" else e_t.clone()
    e_s.requires_grad_(), e_t.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(e_s, e_t)
    found = torch.autograd.grad(value, (e_s, e_t))
    assert value.dtype == torch.float32 and value.isfinite() and all(g.isfinite().all() for g in found)
    if autocast:
        assert value.item() == loss(e_s, e_t).item()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_raised(loss, dtype):
    half = (100 * draw(1, 4, 8)).to(dtype), (100 * draw(2, 4, 8)).to(dtype)
    assert loss(*half).item() == loss(half[0].float(), half[1].float()).item()


@pytest.mark.parametrize(
    "teacher, student, expected",
    [("deit_t", "resnet18", 90_368), ("resnet50", "deit_t", 286_976), ("convnext_t", "resmlp_s12", 147_712)],
)
def test_embeddings_have_128_times_both_widths_and_2_biases(teacher, student, expected):
    with torch.device("meta"):
        models = StagedModel(student, 1000), StagedModel(teacher, 1000)
        assert CC(*models, CC.Config()).extra_parameters() == expected
        assert CC(*models, CC.Config(dim=64)).extra_parameters() == expected // 2


@pytest.mark.parametrize("form", LOSSES)
def test_losses_are_weighted_once(form):
    frozen = teacher("cnn")
    method, batch = make(CC, frozen, student("mixer"), form=form, weight=3.0, gamma=0.7, order=3), batch_for(frozen)
    step, pooled = method(batch), method.student(batch.images).pooled
    embedded = method.embed_student(pooled).double(), method.embed_teacher(batch.teacher.pooled).double()
    expected = neighbours(*embedded) if form == "ofa" else kernel_matrices(*embedded, 0.7, 3)
    assert step.losses["cc"].item() == pytest.approx(3 * expected, rel=1e-4)
    assert step.losses["label"].item() == pytest.approx(batch.label_loss(step.logits).item())


def test_weight_0_leaves_labels_alone():
    frozen = teacher("cnn")
    method = make(CC, frozen, student("cnn"), weight=0.0)
    assert method.extra_parameters() == 0 and set(method(batch_for(frozen)).losses) == {"label"}
