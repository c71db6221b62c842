"""AT: the distance of attention maps against plain loops, its invariances, and the method on pairs of all kinds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods.at import AT, at_loss, attention_map
from tests.methods.method_lab import batch_for, make, student, teacher

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


def test_mean_reduction_divides_by_the_number_of_stages():
    frozen = teacher("cnn")
    model, batch = student("vit"), batch_for(frozen)
    for stages in ((1, 2, 3, 4), (2, 4)):
        summed = make(AT, frozen, model, stages=stages)(batch).losses
        mean = make(AT, frozen, model, stages=stages, reduction="mean")(batch).losses
        for i in stages:
            assert mean[f"at_{i}"].item() == pytest.approx(summed[f"at_{i}"].item() / len(stages), rel=1e-5)
