"""AT: the distance of attention maps against plain loops, its invariances, and the method on pairs of all kinds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods.at import AT, at_loss, attention_map
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from cakdbench.utils.errors import UsageError
from tests.methods.method_lab import batch_for, gradients, make, reached, student, teacher

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
forms = st.sampled_from(["squared", "norm"])


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def maps(seed, batch=3, grid=(3, 4)):
    """A student's map of 5 channels and a teacher's of 7."""
    return draw(seed, batch, 5, *grid), draw(seed + 1, batch, 7, *grid)


def vector_by_hand(sample, p, absolute=False):
    """The paper's sum over the channels `(C, H, W)`, position by position, divided by its length; a list."""
    sums = []
    for place in np.ndindex(*sample.shape[1:]):
        values = [float(sample[(c, *place)]) for c in range(len(sample))]
        sums.append(sum((abs(v) if absolute else v) ** p for v in values))
    length = sum(v**2 for v in sums) ** 0.5
    return [v / length for v in sums]


def loss_by_hand(own, given_, p=2, form="squared", absolute=False):
    total = 0.0
    for a, b in zip(own.numpy(), given_.numpy()):
        a, b = vector_by_hand(a, p, absolute), vector_by_hand(b, p, absolute)
        squares = sum((x - y) ** 2 for x, y in zip(a, b))
        total += (squares if form == "squared" else squares**0.5) / len(a)
    return total / len(own)


class TestLoss:
    @few
    @given(seeds, st.integers(1, 4), forms, st.booleans())
    def test_is_the_distance_of_normalised_channel_sums(self, seed, p, form, absolute):
        own, given_ = maps(seed)
        expected = loss_by_hand(own, given_, p, form, absolute)
        assert at_loss(own, given_, p, form, absolute).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("form", ["squared", "norm"])
    @pytest.mark.parametrize("p", [1, 2, 4])
    def test_gradient_is_that_of_finite_differences(self, p, form):
        own, given_ = maps(3, batch=2, grid=(2, 3))
        assert torch.autograd.gradcheck(lambda x: at_loss(x, given_, p, form), own.requires_grad_())

    def test_gradient_of_the_square_in_closed_form(self):
        own, given_ = maps(5)
        own.requires_grad_()
        found = torch.autograd.grad(at_loss(own, given_), own)[0]
        summed = own.detach().square().sum(1).flatten(1)
        length = summed.norm(dim=1, keepdim=True)
        unit, target = summed / length, attention_map(given_)
        inner = 2 * (unit - target) / unit.numel()
        inner = (inner - unit * (inner * unit).sum(1, keepdim=True)) / length  # off the unit sphere's radius
        assert torch.allclose(found, 2 * own.detach() * inner.view(3, 1, 3, 4))

    @few
    @given(seeds, st.lists(st.floats(0.01, 100), min_size=3, max_size=3), st.sampled_from([-1, 1]), forms)
    def test_a_multiple_of_each_sample_is_the_same_attention(self, seed, factors, sign, form):
        own, given_ = maps(seed)
        scaled = own * sign * torch.tensor(factors, dtype=torch.float64).view(3, 1, 1, 1)
        assert at_loss(scaled, own, form=form).item() == pytest.approx(0, abs=1e-9)
        assert torch.allclose(at_loss(scaled, given_, form=form), at_loss(own, given_, form=form))

    @few
    @given(seeds, st.permutations(range(5)), st.permutations(range(7)))
    def test_the_order_and_signs_of_channels_do_not_matter(self, seed, own_order, given_order):
        own, given_ = maps(seed)
        signs = torch.tensor([1, -1, 1, -1, -1], dtype=torch.float64).view(5, 1, 1)
        assert torch.allclose(at_loss(signs * own[:, own_order], given_[:, given_order]), at_loss(own, given_))

    @few
    @given(seeds, st.permutations(range(3)), forms)
    def test_the_order_of_the_batch_does_not_matter(self, seed, order, form):
        own, given_ = maps(seed)
        assert torch.allclose(at_loss(own[order], given_[order], form=form), at_loss(own, given_, form=form))

    @few
    @given(seeds, st.sampled_from([1, 2, 4]), st.integers(1, 5), st.integers(1, 5))
    def test_is_at_most_2_over_the_number_of_positions(self, seed, p, height, width):
        own, given_ = (x.abs() for x in maps(seed, grid=(height, width)))
        assert 0 <= at_loss(own, given_, p) <= 2 / (height * width) + 1e-12

    def test_reaches_its_bound_where_the_attention_shares_no_position(self):
        own = torch.zeros(2, 3, 2, 2)
        own[:, :, 0, 0] = 1
        given_ = own.flip(2, 3)
        assert at_loss(own, given_).item() == pytest.approx(2 / 4)
        assert at_loss(own, given_, form="norm").item() == pytest.approx(2**0.5 / 4)

    @pytest.mark.parametrize("own, given_", [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((2, 6), (4, 3)), ((5, 5), (3, 3))])
    def test_the_larger_map_is_averaged_to_the_smaller_grid_first(self, own, given_):
        grid = [min(*sides) for sides in zip(own, given_)]

        def averaged(x):  # each place averages the positions that it covers in part or in full
            out = torch.zeros(*x.shape[:2], *grid, dtype=x.dtype)
            for i, j in np.ndindex(*grid):
                rows, columns = (
                    slice(k * side // to, -(-(k + 1) * side // to)) for k, side, to in zip((i, j), x.shape[2:], grid)
                )
                out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
            return out

        pair = draw(1, 2, 5, *own), draw(2, 2, 7, *given_)
        assert at_loss(*pair).item() == pytest.approx(loss_by_hand(*map(averaged, pair)), rel=1e-9)

    def test_odd_powers_keep_the_sign_unless_absolute(self):
        own, given_ = maps(4)
        assert at_loss(-own, given_, 1) != at_loss(own, given_, 1)
        assert at_loss(-own, given_, 1, absolute=True) == at_loss(own, given_, 1, absolute=True)
        assert at_loss(own, given_, 2, absolute=True) == at_loss(own, given_, 2)

    def test_attention_has_length_1(self):
        own, _ = maps(7)
        assert torch.allclose(attention_map(own).norm(dim=1), torch.ones(3, dtype=torch.float64))

    def test_maps_of_one_position_all_agree(self):
        assert at_loss(draw(1, 3, 5, 1, 1), draw(2, 3, 7, 1, 1)).item() == pytest.approx(0, abs=1e-15)

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("form", ["squared", "norm"])
    @pytest.mark.parametrize("kind", ["large", "tiny", "constant", "identical", "zero", "equal"])
    def test_features_of_any_kind_give_finite_losses_and_gradients(self, kind, form, autocast):
        own = {
            "large": 1e4 * draw(1, 2, 3, 4, 4, dtype=torch.float32),
            "tiny": 1e-20 * draw(1, 2, 3, 4, 4, dtype=torch.float32),
            "constant": torch.ones(2, 3, 4, 4),
            "identical": draw(1, 1, 3, 4, 4, dtype=torch.float32).repeat(2, 1, 1, 1),
            "zero": torch.zeros(2, 3, 4, 4),
            "equal": draw(2, 2, 3, 4, 4, dtype=torch.float32),
        }[kind].requires_grad_()
        for given_ in (draw(2, 2, 3, 4, 4, dtype=torch.float32), torch.zeros(2, 3, 4, 4)):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = at_loss(own, given_, form=form)
            assert loss.isfinite() and torch.autograd.grad(loss, own)[0].isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_raised_before_the_power(self, dtype):
        own, given_ = (300 * x.to(dtype) for x in maps(1))
        with torch.autocast("cpu", torch.bfloat16):
            loss = at_loss(own, given_, 4)
        assert loss.dtype == torch.float32 and loss.item() == at_loss(own.float(), given_.float(), 4).item()
        assert 0 < loss.item() < 2 / 12


PAIRS = [
    ("vit", "cnn"),
    ("cnn", "mobilenet"),
    ("mixer", "convnext"),
    ("cnn", "vit"),
    ("swin", "vit"),
    ("convnext", "swin"),
    ("resmlp", "mixer"),
    ("swin", "resmlp"),
]


def everything(method):
    return {name for name, _ in method.named_parameters()}


@pytest.mark.parametrize("given_, taking", PAIRS)
def test_a_step_trains_the_student_and_leaves_the_teacher(given_, taking):
    frozen = teacher(given_)
    method, batch = make(AT, frozen, student(taking)), batch_for(frozen)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    batch.teacher.logits = batch.teacher.pooled = None
    step = method(batch)
    found = gradients(step.total, method.named_parameters())
    assert set(step.losses) == {"label", "at_1", "at_2", "at_3", "at_4"}
    assert all(0 <= step.losses[f"at_{i}"] <= 2 * 1000 for i in (1, 2, 3, 4))
    assert all(grad.isfinite().all() for grad in found.values())
    assert reached(found) == everything(method)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert all(p.grad is None for p in frozen.parameters())
    assert method.extra_parameters() == 0


def test_losses_are_the_weighted_losses_of_the_grids_without_prefix():
    frozen = teacher("vit")
    method = make(AT, frozen, student("swin"), weight=7.0, label_weight=0.5, p=4, stages=(3, 2))
    batch = batch_for(frozen)
    step = method(batch)
    own = method.student(batch.images, stages=True).stages
    expected = {"label": 0.5 * batch.label_loss(step.logits).item()}
    for i, side in ((2, 8), (3, 4)):
        mine = own[i - 1].detach().transpose(1, 2).reshape(4, -1, side, side)
        mine = mine.reshape(4, -1, 4, side // 4, 4, side // 4).mean((3, 5))
        theirs = batch.teacher.stages[i - 1][:, 1:].transpose(1, 2).reshape(4, -1, 4, 4)
        expected[f"at_{i}"] = 7.0 * loss_by_hand(mine.double(), theirs.double(), 4)
    assert {k: v.item() for k, v in step.losses.items()} == pytest.approx(expected, rel=1e-4)


def test_a_stages_loss_trains_the_stages_before_it_and_no_later_one():
    frozen = teacher("vit")
    method, batch = make(AT, frozen, student("cnn"), stages=(2,)), batch_for(frozen)
    found = reached(gradients(method(batch).losses["at_2"], method.named_parameters()))
    tops = {name.split(".")[2] for name in found if name.startswith("student.")}
    assert {"layer1", "layer2"} <= tops and not tops & {"layer3", "layer4", "fc"}


def test_mean_reduction_divides_by_the_number_of_stages():
    frozen = teacher("cnn")
    model, batch = student("vit"), batch_for(frozen)
    for stages in ((1, 2, 3, 4), (2, 4)):
        summed = make(AT, frozen, model, stages=stages)(batch).losses
        mean = make(AT, frozen, model, stages=stages, reduction="mean")(batch).losses
        for i in stages:
            assert mean[f"at_{i}"].item() == pytest.approx(summed[f"at_{i}"].item() / len(stages), rel=1e-5)


def test_one_hot_targets_give_the_losses_of_indices():
    frozen = teacher("cnn")
    method = make(AT, frozen, student("vit"))
    hard, soft = method(batch_for(frozen)).losses, method(batch_for(frozen, soft=True)).losses
    assert {k: v.item() for k, v in soft.items()} == pytest.approx({k: v.item() for k, v in hard.items()})


def test_a_step_under_autocast_is_finite_and_its_losses_float32():
    frozen = teacher("cnn")
    method, batch = make(AT, frozen, student("vit")), batch_for(frozen, size=2)
    with torch.autocast("cpu", torch.bfloat16):
        step = method(batch)
    found = gradients(step.total, method.named_parameters())
    assert all(step.losses[f"at_{i}"].dtype == torch.float32 for i in (1, 2, 3, 4))
    assert step.total.isfinite() and all(grad.isfinite().all() for grad in found.values())


@pytest.mark.parametrize("variant", AT.variants)
@pytest.mark.parametrize("pair", [("cnn", "vit"), ("swin", "mobilenet")])
def test_every_variant_steps(variant, pair):
    frozen, model = teacher(pair[0]), student(pair[1])
    config = resolve_config(AT, variant, frozen.info, model.info, "fashion_demo")
    method = make(AT, frozen, model, **vars(config))
    step = method(batch_for(frozen, size=2))
    found = gradients(step.total, method.named_parameters())
    assert step.total.isfinite() and reached(found) == everything(method)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"form": "cosine"}, "form must be one of squared, norm"),
        ({"reduction": "max"}, "reduction must be one of sum, mean"),
        ({"p": 0}, "p must be at least 1"),
        ({"stages": (0, 1)}, "stages must be some of 1, 2, 3, 4"),
        ({"stages": (1, 1)}, "each once"),
        ({"stages": ()}, "at least one"),
    ],
)
def test_wrong_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        AT.Config(**config)
    with pytest.raises(UsageError, match="setting of at"):
        infos = model_info("resnet_m", 10, 64), model_info("vit_xs", 10, 64)
        resolve_config(AT, None, *infos, "fashion_demo", config)
