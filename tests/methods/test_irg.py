"""IRG: its three terms against loops, what they do not depend on, and the method as a whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods.irg import IRG, _edges, irg_edge_loss, irg_transform_loss, irg_vertex_loss
from tests.methods.method_lab import batch_for, gradients, make, reached, student, teacher

seeds = st.integers(0, 2**31)
few = settings(max_examples=20, deadline=None)


def draw(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed, size):
    return torch.linalg.qr(draw(seed, size, size))[0]


def over_maximum(values):
    """Each of the scalars over the largest, which is held constant."""
    most = max(value.item() for value in values)
    return [value / most for value in values]


def edges(x):
    return over_maximum([sum((a - b) ** 2 for a, b in zip(x[i], x[j])) for i in range(len(x)) for j in range(len(x))])


def halved(x):
    """Pairs of neighbouring channels averaged, as KD-Zoo does."""
    return (x[:, 0::2] + x[:, 1::2]) / 2


def transformation(a, b):
    return over_maximum([sum((u - v) ** 2 for u, v in zip(a[i], b[i])) for i in range(len(a))])


def mean_squared(found, wanted):
    return sum((f - w) ** 2 for f, w in zip(found, wanted)) / len(found)


def assert_same(loss, expected, *of):
    """Value and gradients."""
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for found, wanted in zip(torch.autograd.grad(loss, of), torch.autograd.grad(expected, of)):
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-12)


class TestVertices:
    @few
    @given(seeds, st.integers(1, 5))
    def test_is_the_mean_over_all_logits(self, seed, batch):
        z_s, z_t = draw(seed, batch, 3).requires_grad_(), draw(seed + 1, batch, 3)
        expected = mean_squared([v for row in z_s for v in row], [v for row in z_t for v in row])
        assert_same(irg_vertex_loss(z_s, z_t), expected, z_s)


class TestEdges:
    @few
    @given(seeds, st.integers(2, 5))
    def test_is_the_mean_squared_difference_of_the_distances_over_their_maximum(self, seed, batch):
        x_s, x_t = draw(seed, batch, 3).requires_grad_(), draw(seed + 1, batch, 4)
        assert_same(irg_edge_loss(x_s, x_t), mean_squared(edges(x_s), edges(x_t)), x_s)

    @few
    @given(seeds, st.floats(0.01, 100), st.floats(-5, 5))
    def test_is_0_for_rotated_scaled_and_moved_features(self, seed, scale, shift):
        x = draw(seed, 5, 4)
        assert irg_edge_loss(scale * x @ rotation(seed + 1, 4) + shift, x).item() == pytest.approx(0, abs=1e-15)
        assert irg_edge_loss(draw(seed + 2, 5, 4), x).item() > 1e-6

    @few
    @given(seeds, st.floats(0.01, 100))
    def test_edges_are_symmetric_with_a_diagonal_of_0_and_a_maximum_of_1(self, seed, scale):
        found = _edges(scale * draw(seed, 6, 3))
        assert torch.allclose(found, found.T) and not found.diagonal().any() and (found >= 0).all()
        assert found.max().item() == pytest.approx(1)

    def test_far_from_the_origin_distances_keep_their_digits(self):
        x = draw(1, 6, 16)
        assert torch.allclose(_edges((x + 1000).float()).double(), _edges(x), atol=1e-3)

    def test_the_maximum_is_constant_so_that_a_scale_gets_a_gradient(self):
        x, scale = draw(1, 5, 4), torch.ones((), dtype=torch.float64, requires_grad=True)
        found = torch.autograd.grad(irg_edge_loss(scale * x, draw(2, 5, 4)), scale)[0]
        assert found.abs() > 1e-3

    def test_two_samples_have_one_distance_and_no_loss(self):
        assert irg_edge_loss(draw(1, 2, 4), draw(2, 2, 4)).item() == pytest.approx(0, abs=1e-20)


class TestTransformation:
    @few
    @given(seeds, st.integers(2, 5))
    def test_is_the_mean_squared_difference_over_the_maximum(self, seed, batch):
        a_s, b_s = draw(seed, batch, 3).requires_grad_(), draw(seed + 1, batch, 3).requires_grad_()
        a_t, b_t = draw(seed + 2, batch, 4), draw(seed + 3, batch, 4)
        expected = mean_squared(transformation(a_s, b_s), transformation(a_t, b_t))
        assert_same(irg_transform_loss(a_s, b_s, a_t, b_t), expected, a_s, b_s)

    def test_channels_of_the_wider_feature_are_averaged(self):
        a_s, b_s = draw(1, 4, 3).requires_grad_(), draw(2, 4, 6).requires_grad_()
        a_t, b_t = draw(3, 4, 8), draw(4, 4, 4)
        expected = mean_squared(transformation(a_s, halved(b_s)), transformation(halved(a_t), b_t))
        assert_same(irg_transform_loss(a_s, b_s, a_t, b_t), expected, a_s, b_s)

    @few
    @given(seeds, st.floats(0.01, 100))
    def test_is_0_for_rotated_scaled_features(self, seed, scale):
        a, b, turn = draw(seed, 5, 4), draw(seed + 1, 5, 4), scale * rotation(seed + 2, 4)
        assert irg_transform_loss(a @ turn, b @ turn, a, b).item() == pytest.approx(0, abs=1e-15)

    def test_widths_without_a_common_factor_meet(self):
        given = draw(1, 4, 5), draw(2, 4, 7), draw(3, 4, 6), draw(4, 4, 6)
        assert irg_transform_loss(*given).isfinite()


@few
@given(seeds, st.permutations(range(5)))
def test_no_term_depends_on_the_order_of_the_batch(seed, order):
    a, b, c, d = (draw(seed + i, 5, 4) for i in range(4))
    for loss, of in [(irg_vertex_loss, (a, b)), (irg_edge_loss, (a, b)), (irg_transform_loss, (a, b, c, d))]:
        moved = loss(*(x[order] for x in of)).item()
        assert moved == pytest.approx(loss(*of).item(), rel=1e-9)


LOSSES = {
    "vertex": irg_vertex_loss,
    "edge": irg_edge_loss,
    "transform": lambda x_s, x_t: irg_transform_loss(x_s, x_s.roll(1, 1), x_t, x_t.roll(1, 1)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("given", ["large", "constant", "identical rows", "zero", "equal"])
@pytest.mark.parametrize("batch", [2, 3])
def test_extreme_features_give_finite_losses_and_gradients(name, autocast, given, batch):
    x_s, x_t = draw(1, batch, 8).float(), draw(2, batch, 8).float()
    if given == "large":
        x_s, x_t = 1e4 * x_s.sign(), 1e4 * x_t.sign()
    elif given == "constant":
        x_s = torch.full((batch, 8), 0.1)
    elif given == "identical rows":
        x_s = x_s[:1].repeat(batch, 1)
    else:
        x_s = torch.zeros(batch, 8) if given == "zero" else x_t.clone()
    x_s.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = LOSSES[name](x_s, x_t)
    assert value.dtype == torch.float32 and value.isfinite()
    assert torch.autograd.grad(value, x_s)[0].isfinite().all()
    if given == "equal":
        assert value.item() == 0
    if autocast:
        assert value.item() == LOSSES[name](x_s, x_t).item()


@pytest.mark.parametrize("name", ["edge", "transform"])
def test_features_without_distances_have_no_relations(name):
    x_t = draw(2, 3, 8)
    still = torch.full((3, 8), 0.1, dtype=torch.float64, requires_grad=True)
    expected = (_edges(x_t) if name == "edge" else transformed(x_t)).square().mean()
    assert LOSSES[name](still, x_t).item() == pytest.approx(expected.item(), rel=1e-6)


def transformed(x):
    return torch.stack(transformation(x, x.roll(1, 1)))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_raised(name, dtype):
    half = (1000 * draw(1, 4, 8)).to(dtype), (1000 * draw(2, 4, 8)).to(dtype)
    assert LOSSES[name](*half).item() == LOSSES[name](half[0].float(), half[1].float()).item()


def test_equal_networks_have_no_loss():
    frozen, model = teacher("cnn"), student("cnn").eval()
    model.load_state_dict(frozen.state_dict())
    method = make(IRG, frozen, model)
    method.eval()
    losses = method(batch_for(frozen)).losses
    assert all(losses[name].item() == pytest.approx(0, abs=1e-9) for name in losses if name != "label")


def test_losses_are_the_weighted_terms_of_the_layers():
    frozen = teacher("vit")  # with a class token, which is no part of the stages' edges
    config = {"vertex_weight": 2.0, "edge_weight": 3.0, "transform_weight": 7.0, "edge_stages": (1, 4)}
    method, batch = make(IRG, frozen, student("swin"), transform_stages=(2, 4), **config), batch_for(frozen)
    step, own, given = method(batch), method.student(batch.images, stages=True), batch.teacher
    pairs = [(own.pooled, given.pooled)] + [
        (own.stages[i].flatten(1), given.stages[i][:, 1:].flatten(1)) for i in (0, 3)
    ]
    means = [own.stages[i].mean(1) for i in (1, 3)] + [given.stages[i][:, 1:].mean(1) for i in (1, 3)]
    expected = {
        "label": batch.label_loss(step.logits),
        "irg_vertex": 2 * irg_vertex_loss(own.logits, given.logits),
        "irg_edge": sum(irg_edge_loss(*pair) for pair in pairs),  # 3 / 3 layers
        "irg_transform": 7 * irg_transform_loss(*means),
    }
    assert frozen.layouts[0].prefix == 1
    found = {name: loss.item() for name, loss in step.losses.items()}
    assert found == pytest.approx({name: loss.item() for name, loss in expected.items()}, rel=1e-3, abs=1e-7)


def test_gradients_of_edges_stop_at_the_last_stage_they_count():
    frozen = teacher("cnn")
    method, batch = make(IRG, frozen, student("cnn"), edge_stages=(), transform_stages=(1, 2)), batch_for(frozen)
    found = reached(gradients(method(batch).losses["irg_transform"], method.named_parameters()))
    tops = {name.split(".")[2] for name in found}
    assert {"layer1", "layer2"} <= tops and not tops & {"layer3", "layer4", "fc"}


@pytest.mark.parametrize(
    "variant, losses, needs",
    [
        (None, "vertex edge transform", "logits pooled stages"),
        ("vertices_only", "vertex", "logits"),
        ("edges_only", "edge", "pooled stages"),
        ("transform_only", "transform", "stages"),
        ("no_vertices", "edge transform", "pooled stages"),
        ("no_edges", "vertex transform", "logits stages"),
        ("no_transform", "vertex edge", "logits pooled stages"),
        ("edges_pooled", "vertex edge transform", "logits pooled stages"),
        ("free_maximum", "vertex edge transform", "logits pooled stages"),
    ],
)
def test_variants_take_no_more_of_the_teacher_than_they_need(variant, losses, needs):
    frozen = teacher("cnn")
    method, batch = make(IRG, frozen, student("vit"), **IRG.variants.get(variant, {})), batch_for(frozen, size=2)
    assert method.needs == set(needs.split())
    for part in IRG.needs - method.needs:
        setattr(batch.teacher, part, None)
    step = method(batch)
    assert set(step.losses) == {"label", *(f"irg_{name}" for name in losses.split())}
    assert step.total.isfinite()


def test_every_variant_is_tested():
    assert len(IRG.variants) == 8


def test_a_free_maximum_gives_a_scale_no_gradient():
    x, scale = draw(1, 5, 4), torch.ones((), dtype=torch.float64, requires_grad=True)
    edges = irg_edge_loss(scale * x, draw(2, 5, 4), constant_maximum=False)
    change = irg_transform_loss(scale * x, scale * draw(3, 5, 4), draw(4, 5, 4), draw(5, 5, 4), constant_maximum=False)
    assert torch.autograd.grad(edges + change, scale)[0].abs() < 1e-12
    assert edges == irg_edge_loss(x, draw(2, 5, 4))
