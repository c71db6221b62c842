"""FitNet: the hint loss, the aligners of all forms of stages, and what a step reads of the teacher."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cakdbench.grid.suites import resolve_pairs
from cakdbench.methods.fitnet import Aligner, FitNet, fitnet_loss, merge, spread
from cakdbench.methods.kd import kd_loss
from cakdbench.models.staged import Layout, StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.recipes import load_recipe
from tests.methods.method_lab import MINI, batch_for, gradients, make, reached, student, teacher

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
MAP, TOKENS = {"tokens": False}, {"tokens": True}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestLoss:
    @few
    @given(seeds, st.sampled_from([(2, 3), (3, 4, 5), (2, 3, 2, 4)]))
    def test_is_the_mean_square_over_every_element_with_its_gradient(self, seed, shape):
        aligned, given_ = draw(seed, *shape).requires_grad_(), draw(seed + 1, *shape)
        difference = aligned.detach().numpy() - given_.numpy()
        expected = sum(float(x) ** 2 for x in difference.flat) / difference.size
        loss = fitnet_loss(aligned, given_)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        found = torch.autograd.grad(loss, aligned)[0].numpy()
        np.testing.assert_allclose(found, 2 * difference / difference.size, rtol=1e-12)

    @few
    @given(seeds, st.floats(-30, 30))
    def test_a_constant_more_than_the_teacher_costs_its_square(self, seed, constant):
        feature = draw(seed, 2, 3, 4, 4)
        assert fitnet_loss(feature, feature).item() == 0
        assert fitnet_loss(feature + constant, feature).item() == pytest.approx(constant**2, rel=1e-9, abs=1e-20)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_raised_before_it_is_squared(self, dtype):
        aligned, given_ = (1e3 * draw(1, 2, 3, 4, 4)).to(dtype), torch.zeros(2, 3, 4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = fitnet_loss(aligned, given_)
        assert loss.dtype == torch.float32 and loss.item() == fitnet_loss(aligned.float(), given_).item()
        assert loss.item() > 65504

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("rows", ["large", "constant", "identical", "zero"])
    def test_features_of_any_kind_give_finite_losses_and_gradients(self, rows, autocast):
        values = {"large": 1e4, "constant": 1.0, "identical": 1.0, "zero": 0.0}[rows]
        aligned = values * (torch.randn(1, 3, 2, 2) if rows in ("large", "identical") else torch.ones(1, 3, 2, 2))
        aligned = aligned.expand(2, -1, -1, -1).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = fitnet_loss(aligned, -aligned.detach())
        assert loss.isfinite() and torch.autograd.grad(loss, aligned)[0].isfinite().all()


class TestMerge:
    @pytest.mark.parametrize("block", [(1, 1), (2, 2), (4, 2), (1, 3)])
    def test_blocks_are_concatenated_row_by_row(self, block):
        (h, w), x = block, draw(1, 2, 4 * block[0], 3 * block[1], 5)
        merged = merge(x, block)
        assert merged.shape == (2, 4, 3, h * w * 5)
        for i in range(4):
            for j in range(3):
                pieces = [x[:, i * h + a, j * w + b] for a in range(h) for b in range(w)]
                assert torch.equal(merged[:, i, j], torch.cat(pieces, 1))

    @pytest.mark.parametrize("block", [(1, 1), (2, 2), (4, 2), (1, 3)])
    def test_spread_is_the_inverse(self, block):
        x = draw(1, 2, 4 * block[0], 3 * block[1], 5)
        assert torch.equal(spread(merge(x, block), block), x)
        y = draw(2, 2, 4, 3, 5 * math.prod(block))
        assert torch.equal(merge(spread(y, block), block), y)


def feature_of(layout, seed=0, batch=2):
    return draw(seed, batch, *layout.shape)


def at(layout, x, b, i, j):
    """The channels of one position, prefix tokens left out."""
    return x[b, layout.prefix + i * layout.grid[1] + j] if layout.tokens else x[b, :, i, j]


def aligned_by_hand(aligner, own, wanted, x, raster=False):
    """The aligner's layer applied position by position, as the table of the released code says; float64 numpy."""
    weight, bias = aligner.layer.weight.detach().numpy(), aligner.layer.bias
    bias = 0 if bias is None else bias.detach().numpy()
    out = np.zeros((len(x), wanted.channels, *wanted.grid))
    down, up = (max(a // b, 1) for a, b in ((own.grid[0], wanted.grid[0]), (wanted.grid[0], own.grid[0])))
    for b in range(len(x)):
        for i in range(own.grid[0] // down):
            for j in range(own.grid[1] // down):
                block = [(i * down + u, j * down + v) for u in range(down) for v in range(down)]
                pieces = np.stack([at(own, x, b, *place).numpy() for place in block])  # (r * r, C)
                if own.tokens:
                    given_ = weight.reshape(len(weight), -1) @ pieces.reshape(-1) + bias
                else:  # a convolution's weight has the channels before the places
                    given_ = weight.reshape(len(weight), -1) @ pieces.T.reshape(-1) + bias
                for q, piece in enumerate(given_.reshape(up * up, -1)):
                    n = (i * (own.grid[1] // down) + j) * up * up + q
                    place = divmod(n, wanted.grid[1]) if raster else (i * up + q // up, j * up + q % up)
                    out[b, :, place[0], place[1]] = piece
    return out


CASES = {
    "map to map": (Layout(3, (4, 4), **MAP), Layout(5, (4, 4), **MAP), nn.Conv2d, 15),
    "finer map to map": (Layout(3, (4, 4), **MAP), Layout(5, (2, 2), **MAP), nn.Conv2d, 65),
    "coarser map to map": (Layout(3, (2, 2), **MAP), Layout(5, (4, 4), **MAP), nn.Conv2d, 80),
    "map to tokens": (Layout(3, (4, 4), **MAP), Layout(5, (4, 4), **TOKENS, prefix=1), nn.Conv2d, 20),
    "finer map to tokens": (Layout(3, (8, 8), **MAP), Layout(5, (2, 2), **TOKENS), nn.Conv2d, 3 * 16 * 5 + 5),
    "coarser map to tokens": (Layout(3, (2, 2), **MAP), Layout(5, (4, 4), **TOKENS, prefix=2), nn.Conv2d, 80),
    "tokens to map": (Layout(3, (4, 4), **TOKENS, prefix=1), Layout(5, (4, 4), **MAP), nn.Linear, 20),
    "coarser tokens to map": (Layout(3, (2, 2), **TOKENS, prefix=1), Layout(5, (8, 8), **MAP), nn.Linear, 320),
    "finer tokens to map": (Layout(3, (4, 4), **TOKENS, prefix=1), Layout(5, (2, 2), **MAP), nn.Conv2d, 65),
    "tokens to tokens": (Layout(3, (4, 4), **TOKENS), Layout(5, (4, 4), **TOKENS, prefix=1), nn.Linear, 20),
    "finer tokens to tokens": (Layout(3, (4, 4), **TOKENS, prefix=1), Layout(5, (2, 2), **TOKENS), nn.Linear, 65),
    "coarser tokens to tokens": (Layout(3, (2, 2), **TOKENS), Layout(5, (4, 4), **TOKENS, prefix=1), nn.Linear, 80),
    "not square": (Layout(3, (2, 4), **TOKENS), Layout(5, (4, 8), **TOKENS), nn.Linear, 80),
}


class TestAligner:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("reshape", ["grid", "raster"])
    def test_gives_what_the_table_says(self, case, reshape):
        own, wanted, layer, parameters = CASES[case]
        aligner, x = Aligner(own, wanted, reshape).double(), feature_of(own)
        raster = reshape == "raster" and own.tokens and wanted.tokens
        found = aligner(x)
        assert isinstance(aligner.layer, layer)
        assert sum(p.numel() for p in aligner.parameters()) == parameters
        assert found.shape == wanted.to_map(feature_of(wanted)).shape
        np.testing.assert_allclose(found.detach().numpy(), aligned_by_hand(aligner, own, wanted, x, raster), rtol=1e-9)

    def test_raster_differs_from_grid_only_where_a_token_gives_several(self):
        for case, (own, wanted, *_) in CASES.items():
            x, grid, raster = feature_of(own), Aligner(own, wanted).double(), Aligner(own, wanted, "raster").double()
            raster.load_state_dict(grid.state_dict())
            same = torch.equal(grid(x), raster(x))
            assert same == (case not in ("coarser tokens to tokens", "not square"))

    @pytest.mark.parametrize("case", [case for case, (own, *_) in CASES.items() if own.prefix])
    def test_prefix_tokens_are_left_out(self, case):
        own, wanted, *_ = CASES[case]
        x = feature_of(own).requires_grad_()
        grad = torch.autograd.grad(Aligner(own, wanted).double()(x).square().sum(), x)[0]
        assert not grad[:, : own.prefix].any() and grad[:, own.prefix :].all()

    def test_the_identity_on_the_teachers_own_feature_costs_nothing(self):
        for layout in (Layout(5, (4, 4), **MAP), Layout(5, (4, 4), **TOKENS, prefix=1)):
            aligner, x = Aligner(layout, layout).double(), feature_of(layout)
            with torch.no_grad():
                aligner.layer.weight.copy_(torch.eye(5).view_as(aligner.layer.weight))
                if aligner.layer.bias is not None:
                    aligner.layer.bias.zero_()
            assert fitnet_loss(aligner(x), layout.to_map(x)).item() == 0

    @pytest.mark.parametrize("forms", [(MAP, TOKENS), (TOKENS, MAP), (TOKENS, TOKENS)])
    @pytest.mark.parametrize("own, wanted", [((5, 5), (2, 2)), ((3, 3), (4, 4)), ((2, 6), (4, 3))])
    def test_grids_that_do_not_divide_each_other_are_resized(self, forms, own, wanted):
        own, wanted = Layout(3, own, **forms[0]), Layout(5, wanted, **forms[1])
        aligner = Aligner(own, wanted).double()
        assert sum(p.numel() for p in aligner.parameters()) == 20
        flat = aligner(torch.ones_like(feature_of(own)))  # a constant stays one
        assert flat.shape == (2, 5, *wanted.grid)
        torch.testing.assert_close(flat, flat[:, :, :1, :1].expand_as(flat))

    def test_a_finer_grid_that_does_not_divide_is_averaged(self):
        own, wanted = Layout(1, (3, 3), **MAP), Layout(1, (2, 2), **MAP)
        aligner, x = Aligner(own, wanted).double(), torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
        nn.init.ones_(aligner.layer.weight)
        nn.init.zeros_(aligner.layer.bias)
        assert aligner(x).flatten().tolist() == [2.0, 3.0, 5.0, 6.0]

    @pytest.mark.parametrize("given_", MINI)
    @pytest.mark.parametrize("taking", MINI)
    def test_every_stage_of_every_pair_meets(self, given_, taking):
        pair = model_info(MINI[taking], 10, 64), model_info(MINI[given_], 10, 64)
        for own, wanted in zip(*(info.layouts for info in pair)):
            aligner = Aligner(own, wanted).double()
            assert aligner.divides
            assert aligner(feature_of(own)).shape == wanted.to_map(feature_of(wanted)).shape


@pytest.mark.parametrize("spec", resolve_pairs("demo_all,cifar_all"), ids=lambda spec: str(spec.pair))
def test_takes_the_pairs_of_the_suites_without_resizing(spec):
    size = load_recipe(spec.recipe).image_size
    given_, taking = (model_info(name, 10, size) for name in (spec.pair.teacher_models[0], spec.pair.student))
    assert FitNet.refuses(given_, taking, FitNet.Config()) is None
    with torch.device("meta"):
        for own, wanted in zip(taking.layouts, given_.layouts):
            aligner = Aligner(own, wanted)
            assert aligner.divides and aligner(torch.zeros(2, *own.shape)).shape == (2, wanted.channels, *wanted.grid)


def extra_parameters(teacher, student, **config):
    with torch.device("meta"):
        models = StagedModel(student, 100), StagedModel(teacher, 100)
        return FitNet(*models, FitNet.Config(**config)).extra_parameters()


def dense(*layers):
    """Weights and biases of linear layers `(in, out)`."""
    return sum(inner * outer + outer for inner, outer in layers)


@pytest.mark.parametrize(
    "teacher, student, expected",
    [
        ("resnet34", "resnet18", 64**2 + 128**2 + 256**2 + 512**2),
        ("swin_t", "resnet18", dense((64, 96), (128, 192), (256, 384), (512, 768))),
        ("vit_s", "resnet18", dense((64 * 16, 384), (128 * 4, 384), (256, 384), (512, 4 * 384))),
        ("convnext_t", "deit_t", dense((192, 16 * 96), (192, 4 * 192), (192, 384), (4 * 192, 768))),
        ("swin_t", "resmlp_s12", dense((384, 16 * 96), (384, 4 * 192), (384, 384), (4 * 384, 768))),
    ],
)
def test_extra_parameters_are_those_of_the_table(teacher, student, expected):
    assert extra_parameters(teacher, student) == expected
    assert extra_parameters(teacher, student, reshape="raster") == expected
    assert extra_parameters(teacher, student, weight=0.0) == 0


def test_pooled_features_need_a_layer_only_where_widths_differ():
    assert extra_parameters("swin_t", "resnet18", hint="pooled") == dense((512, 768))
    assert extra_parameters("vit_s", "resmlp_s12", hint="pooled_nce") == 0


def test_aligners_start_as_the_released_code_starts_them():
    for family, kind in (("cnn", nn.Conv2d), ("vit", nn.Linear)):
        method = make(FitNet, teacher("vit"), student(family))
        layers = [method.aligners[str(i)].layer for i in (1, 2, 3, 4)]
        assert all(isinstance(layer, kind) and not layer.bias.any() for layer in layers)
        for layer in layers:
            wanted = 0.02 if kind is nn.Linear else math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.1)


def test_losses_are_the_weighted_losses_of_each_stage():
    frozen = teacher("swin")
    given_ = {"weight": 0.3, "label_weight": 0.5, "kd_weight": 2.0, "kd_temperature": 4.0, "stages": (3, 1)}
    method, batch = make(FitNet, frozen, student("cnn"), **given_), batch_for(frozen)
    step = method(batch)
    output = method.student(batch.images, stages=True)
    expected = {"label": 0.5 * batch.label_loss(output.logits)}
    expected["kd"] = 2.0 * kd_loss(output.logits, batch.teacher.logits, 4.0)
    for i in (1, 3):
        target = batch.teacher.stages[i - 1]  # tokens (B, L, D)
        aligned = method.aligners[str(i)](output.stages[i - 1]).flatten(2).transpose(1, 2)
        expected[f"fitnet_{i}"] = 0.3 * ((aligned - target) ** 2).sum() / target.numel()
    assert {k: v.item() for k, v in step.losses.items()} == pytest.approx({k: v.item() for k, v in expected.items()})


def test_the_teachers_class_token_is_no_hint():
    frozen = teacher("vit")
    method, batch = make(FitNet, frozen, student("cnn")), batch_for(frozen)
    first = method(batch).total.item()
    method, batch.teacher.stages = make(FitNet, frozen, student("cnn")), tuple(x.clone() for x in batch.teacher.stages)
    for feature in batch.teacher.stages:
        feature[:, 0] += 100
    assert method(batch).total.item() == first


@pytest.mark.parametrize(
    "config, needs, names",
    [
        ({}, {"logits", "stages"}, {"label", "kd", "fitnet_1", "fitnet_2", "fitnet_3", "fitnet_4"}),
        ({"kd_weight": 0.0, "stages": (4,)}, {"stages"}, {"label", "fitnet_4"}),
        ({"weight": 0.0}, {"logits"}, {"label", "kd"}),
        ({"hint": "pooled"}, {"logits", "pooled"}, {"label", "kd", "fitnet_pooled"}),
        ({"hint": "pooled_nce", "kd_weight": 0.0}, {"pooled"}, {"label", "nce_pooled"}),
        ({"hint": "pooled", "weight": 0.0}, {"logits"}, {"label", "kd"}),
    ],
)
def test_reads_of_the_teacher_no_more_than_its_weights_ask_for(config, needs, names):
    frozen = teacher("cnn")
    method, batch = make(FitNet, frozen, student("vit"), **config), batch_for(frozen)
    batch.teacher = replace(batch.teacher, **{part: None for part in {"logits", "stages", "pooled"} - needs})
    step = method(batch)
    found = gradients(step.total, method.named_parameters())
    assert method.needs == needs and method.needs <= FitNet.needs
    assert set(step.losses) == names
    assert reached(found) == {name for name, _ in method.named_parameters()}


@pytest.mark.parametrize("taking", ["resmlp", "vit"])
@pytest.mark.parametrize("given_", ["cnn", "mixer"])
def test_pooled_hints_compare_what_the_classifiers_take(given_, taking):
    frozen = teacher(given_)
    batch = batch_for(frozen)
    for hint in ("pooled", "pooled_nce"):
        method = make(FitNet, frozen, student(taking), hint=hint, weight=2.0, tau=0.5)
        own = method.student(batch.images).pooled
        if given_ == "cnn":  # 128 wide, the students 64
            layer = method.aligners["pooled"]
            own = own @ layer.weight.T + layer.bias
        losses, target = method(batch).losses, batch.teacher.pooled
        assert bool(method.aligners) == (given_ == "cnn")
        if hint == "pooled":
            expected = ((own - target) ** 2).mean()
            assert losses["fitnet_pooled"].item() == pytest.approx(2 * expected.item(), rel=1e-5)
        else:
            cosine = (own / own.norm(dim=1, keepdim=True)) @ (target / target.norm(dim=1, keepdim=True)).T
            expected = -(cosine / 0.5).softmax(1).diag().log().mean()
            assert losses["nce_pooled"].item() == pytest.approx(2 * expected.item(), rel=1e-4)
