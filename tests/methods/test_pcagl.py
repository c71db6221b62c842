"""PCA/GL: its losses against loops, its projectors, the views of the images, and who trains the discriminator."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.pcagl import (
    PCAGL,
    GroupLinear,
    attend,
    discriminator_loss,
    generator_loss,
    gl_loss,
    make_discriminator,
    partially_cross_attention_loss,
    value_relation_loss,
    windowed,
)
from cakdbench.methods.pcagl_views import draw_transforms, geometric_view, photometric_view
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Optimizer
from cakdbench.train.lane import make_optimizer, parameters_of
from cakdbench.utils.rng import seeded
from tests.methods.method_lab import CLASSES, MINI, batch_for, gradients, make, reached, student, teacher

seeds = st.integers(0, 2**31)
few = settings(max_examples=10, deadline=None)
CLEAN = {"mvg": "off", "mix": 0.0, "dropout": 0.0}


def draw(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coins(seed, *shape):
    return draw(seed, *shape) > 0


def attention_in_loops(q, k, v):
    """`(N, d)` of one head."""
    rows = []
    for query in q:
        weights = [torch.exp((query * key).sum() / math.sqrt(len(query))) for key in k]
        rows.append(sum(w * value for w, value in zip(weights, v)) / sum(weights))
    return torch.stack(rows)


def pca_in_loops(student, teacher, replaced):
    mixed = student * ~replaced + teacher * replaced
    total, count = 0.0, 0
    for b in range(student.shape[1]):
        for h in range(student.shape[2]):
            difference = attention_in_loops(*mixed[:, b, h]) - attention_in_loops(*teacher[:, b, h])
            total, count = total + (difference**2).sum(), count + difference.numel()
    return total / count


def relation_in_loops(student, teacher):
    total, count = 0.0, 0
    for b in range(student.shape[0]):
        for h in range(student.shape[1]):
            for i in range(student.shape[2]):
                for j in range(student.shape[2]):
                    pair = [(v[b, h, i] * v[b, h, j]).sum() / math.sqrt(v.shape[3]) for v in (student, teacher)]
                    total, count = total + (pair[0] - pair[1]) ** 2, count + 1
    return total / count


class TestLosses:
    @few
    @given(seeds)
    def test_partially_cross_attention_is_the_formula_in_loops(self, seed):
        mine, theirs = draw(seed, 3, 2, 2, 3, 4).requires_grad_(), draw(seed + 1, 3, 2, 2, 3, 4)
        replaced = coins(seed + 2, *mine.shape)
        values = [f(mine, theirs, replaced) for f in (partially_cross_attention_loss, pca_in_loops)]
        assert torch.allclose(*values, rtol=1e-9)
        assert torch.allclose(*[torch.autograd.grad(value, mine)[0] for value in values], rtol=1e-7)

    @few
    @given(seeds)
    def test_value_relation_is_the_formula_in_loops(self, seed):
        mine, theirs = draw(seed, 2, 2, 3, 4).requires_grad_(), draw(seed + 1, 2, 2, 3, 4)
        values = [f(mine, theirs) for f in (value_relation_loss, relation_in_loops)]
        assert torch.allclose(*values, rtol=1e-9)
        assert torch.allclose(*[torch.autograd.grad(value, mine)[0] for value in values], rtol=1e-7)

    def test_gl_is_the_mean_of_squares(self):
        assert gl_loss(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 3.0)).item() == 9.0
        mine, theirs = draw(0, 2, 3, 4), draw(1, 2, 3, 4)
        expected = sum((a - b) ** 2 for a, b in zip(mine.flatten().tolist(), theirs.flatten().tolist())) / 24
        assert gl_loss(mine, theirs).item() == pytest.approx(expected, rel=1e-9)

    @few
    @given(seeds)
    def test_adversarial_losses_are_their_formulas(self, seed):
        fake, real = draw(seed, 5, scale=3), draw(seed + 1, 5, scale=3)
        chance = [[1 / (1 + math.exp(-z)) for z in each.tolist()] for each in (fake, real)]
        expected = sum(-math.log(r) - math.log(1 - f) for f, r in zip(*chance)) / 5
        assert discriminator_loss(fake, real).item() == pytest.approx(expected, rel=1e-9)
        assert generator_loss(fake, 100.0).item() == pytest.approx(sum(math.log(1 - f) for f in chance[0]) / 5)
        assert generator_loss(fake, nonsat=True).item() == pytest.approx(-sum(map(math.log, chance[0])) / 5)

    @pytest.mark.parametrize(
        "loss",
        [
            lambda a, b: partially_cross_attention_loss(a, b, coins(9, *a.shape)),
            lambda a, b: value_relation_loss(a[0], b[0]),
            gl_loss,
            discriminator_loss,
            lambda a, b: discriminator_loss(b, a),
            lambda a, b: generator_loss(a),
            lambda a, b: generator_loss(a, nonsat=True),
        ],
    )
    def test_gradients_are_those_of_the_values(self, loss):
        mine, theirs = draw(3, 3, 1, 2, 2, 3).requires_grad_(), draw(4, 3, 1, 2, 2, 3)
        assert torch.autograd.gradcheck(lambda x: loss(x, theirs), (mine,))

    @few
    @given(seeds)
    def test_nothing_but_the_teachers_elements_leaves_no_difference(self, seed):
        mine, theirs = draw(seed, 3, 2, 2, 3, 4), draw(seed + 1, 3, 2, 2, 3, 4)
        assert partially_cross_attention_loss(mine, theirs, torch.ones(mine.shape, dtype=torch.bool)) == 0
        assert partially_cross_attention_loss(mine, theirs) > 0

    @few
    @given(seeds)
    def test_equal_sides_give_0_whatever_is_mixed(self, seed):
        both = draw(seed, 3, 2, 2, 3, 4)
        assert partially_cross_attention_loss(both, both.clone(), coins(seed, *both.shape)) == 0
        assert value_relation_loss(both[2], both[2].clone()) == 0

    def test_gradient_reaches_no_element_that_was_replaced(self):
        mine, theirs = draw(0, 3, 2, 2, 3, 4).requires_grad_(), draw(1, 3, 2, 2, 3, 4)
        replaced = coins(2, *mine.shape)
        grad = torch.autograd.grad(partially_cross_attention_loss(mine, theirs, replaced), mine)[0]
        assert (grad[replaced] == 0).all() and (grad[~replaced] != 0).all()

    @few
    @given(seeds)
    def test_value_relation_does_not_see_a_rotation_within_the_heads(self, seed):
        mine, theirs = draw(seed, 2, 2, 3, 4), draw(seed + 1, 2, 2, 3, 4)
        rotation = torch.linalg.qr(draw(seed + 2, 4, 4)).Q
        loss = value_relation_loss(mine, theirs)
        assert torch.allclose(value_relation_loss(mine @ rotation, theirs), loss)
        assert torch.allclose(value_relation_loss(mine, theirs @ rotation), loss)

    def test_an_undecided_discriminator_gives_the_constants(self):
        nothing = torch.zeros(4)
        assert discriminator_loss(nothing, nothing).item() == pytest.approx(2 * math.log(2))
        assert generator_loss(nothing).item() == pytest.approx(-math.log(2))

    def test_the_student_gains_nothing_beyond_the_limit(self):
        logits = torch.tensor([-1e4, -11.0, 11.0, 1e4], requires_grad=True)
        loss = generator_loss(logits)
        assert loss.item() == pytest.approx(-(2 * math.log1p(math.exp(10)) + 2 * math.log1p(math.exp(-10))) / 4)
        assert not torch.autograd.grad(loss, logits)[0].any()

    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_are_finite_for_features_of_any_size(self, scale, dtype):
        mine = draw(0, 3, 2, 2, 4, 8, scale=scale).to(dtype).requires_grad_()
        theirs = draw(1, 3, 2, 2, 4, 8, scale=scale).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            losses = [
                partially_cross_attention_loss(mine, theirs, coins(2, *mine.shape)),
                value_relation_loss(mine[2], theirs[2]),
                gl_loss(mine, theirs),
                discriminator_loss(mine, theirs),
                discriminator_loss(theirs, mine),
                generator_loss(mine),
                generator_loss(mine, nonsat=True),
            ]
        for loss in losses:
            assert loss.dtype == torch.float32 and loss.isfinite()
            assert torch.autograd.grad(loss, mine, retain_graph=True)[0].isfinite().all()


class TestProjectors:
    @pytest.mark.parametrize("grid, tiles", [((14, 14), 16), ((7, 7), 4), ((4, 4), 1), ((5, 9), 6)])
    def test_group_linear_has_a_map_for_every_tile(self, grid, tiles):
        layer = GroupLinear(3, 5, grid).double()
        assert len(layer.weight) == tiles and len({tuple(w.flatten().tolist()) for w in layer.weight}) == tiles
        x = draw(0, 2, 3, *grid)
        out, across = layer(x), -(-grid[1] // 4)
        assert out.shape == (2, grid[0] * grid[1], 5)
        for row in range(grid[0]):
            for column in range(grid[1]):
                group = row // 4 * across + column // 4
                expected = x[:, :, row, column] @ layer.weight[group] + layer.bias[group, 0]
                assert torch.allclose(out[:, row * grid[1] + column], expected)

    def test_columns_of_a_tile_can_be_permuted_before_or_after_it(self):
        layer, order = GroupLinear(3, 5, (14, 14)), [0, 1, 2, 3, 6, 4, 7, 5, *range(8, 14)]
        x = torch.randn(2, 3, 14, 14)
        assert torch.allclose(layer(x[..., order]), layer(x).unflatten(1, (14, 14))[:, :, order].flatten(1, 2))

    def test_dropout_is_of_the_input_and_in_training_only(self):
        layer, x = GroupLinear(3, 5, (4, 4), dropout=0.5), torch.ones(2, 3, 4, 4)
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))

    @pytest.mark.parametrize("grid, window", [((4, 6), (2, 3)), ((5, 7), (2, 3)), ((4, 4), (4, 4))])
    def test_windows_hold_their_positions_row_by_row(self, grid, window):
        rows, columns = grid
        x = torch.arange(3 * 2 * 2 * rows * columns * 2).view(3, 2, 2, rows * columns, 2)
        found, place = windowed(x, grid, window), 0
        for b in range(2):
            for top in range(0, rows - window[0] + 1, window[0]):
                for left in range(0, columns - window[1] + 1, window[1]):
                    inside = [
                        r * columns + c for r in range(top, top + window[0]) for c in range(left, left + window[1])
                    ]
                    assert torch.equal(found[:, place], x[:, b][:, :, inside])
                    place += 1
        assert place == found.shape[1]
        assert windowed(x, grid, None) is x

    @pytest.mark.parametrize("net", ["vit", "swin"])
    def test_attention_is_the_one_the_teacher_computes(self, net):
        frozen = teacher(net)
        module = frozen.family.attention(frozen.net).module
        if net == "swin":  # the method leaves its relative position bias out
            module.relative_position_bias_table.zero_()
        taken = []
        module.proj.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
        qkv = torch.stack(batch_for(frozen).teacher.attention)
        found = attend(windowed(qkv, frozen.layouts[frozen.attention.stage - 1].grid, frozen.attention.window))
        assert torch.allclose(found.transpose(1, 2).flatten(2), taken[0], atol=1e-5)

    @pytest.mark.parametrize("name, channels, millions", [("resnet18", 256, [5.31, 3.16]), ("resnet50", 1024, None)])
    def test_have_the_parameters_of_the_papers_design(self, name, channels, millions):
        with torch.device("meta"):
            models = StagedModel(name, 100), StagedModel("timm:vit_base_patch16_224", 100)
            method = PCAGL(*models, PCAGL.Config())
        c, d = channels, 768
        sizes = [sum(p.numel() for p in part.parameters()) for part in (method.pca, method.gl)]
        assert sizes == [3 * (9 * c * d + d), 16 * (c * d + d)]
        assert millions in (None, [round(size / 1e6, 2) for size in sizes])
        judge = (d + 1) * d // 2 + (d // 2 + 1) * d // 4 + d // 4 + 1
        assert method.extra_parameters() == sum(sizes) + judge


ALWAYS, NEVER = torch.tensor(True).view(1, 1, 1, 1), torch.tensor(False).view(1, 1, 1, 1)


class TestViews:
    def images(self, size=6, pixels=32):
        ramp = torch.linspace(-1, 1, 2 * pixels + 1)[1::2]  # coordinates of the pixels' centres
        across, down = ramp.expand(pixels, pixels), ramp[:, None].expand(pixels, pixels)
        return torch.stack([across, down, torch.ones(pixels, pixels)]).expand(size, 3, pixels, pixels).clone()

    def test_a_crop_is_a_rotated_and_shrunk_square_of_the_image(self):
        images = self.images(200)
        with seeded("crop"):
            seen = geometric_view(images, ALWAYS, ALWAYS, 0.25, 30.0)
        middle = slice(12, 20)
        given = images[0, :, middle, middle].flatten(1)  # across, down and 1 for every pixel
        areas, angles = [], []
        for image in seen:
            found = image[:, middle, middle].flatten(1)
            if found[2].min() < 1 - 1e-4:
                continue  # some of it lies outside the image
            (a, b, x), (c, d, y) = torch.linalg.lstsq(given.T, found[:2].T).solution.T
            assert torch.allclose(torch.stack([a, b]), torch.stack([d, -c]), atol=1e-4)
            side = torch.hypot(a, b)
            assert max(x.abs(), y.abs()) <= 1 - side + 1e-4
            areas.append(side.square().item())
            angles.append(torch.rad2deg(torch.atan2(c, a)).item())
        assert len(areas) > 150
        assert 0.25 - 1e-3 <= min(areas) < 0.35 and 0.9 < max(areas) <= 1 + 1e-3
        assert -30.01 < min(angles) < -20 and 20 < max(angles) < 30.01

    def transformed(self, coin, chance=0.5, count=400):
        """Which of `count` images are cropped, rotated, jittered and masked, by what is left of the image."""
        images = torch.randn(count, 3, 8, 8)
        with seeded("coins", coin):
            cropped, rotated, jittered, covered = draw_transforms(images, chance, coin)
            views = [
                geometric_view(images, cropped, NEVER, 0.5, 15.0),
                geometric_view(images, NEVER, rotated, 0.5, 15.0),
                photometric_view(images, jittered, NEVER, 0.4, 0.0, 4),
                photometric_view(images, NEVER, covered, 0.0, 1.0, 4),
            ]
        return torch.stack([(view - images).abs().flatten(1).amax(1) > 1e-5 for view in views])

    def test_one_coin_an_image_leaves_half_of_them_alone_and_gives_the_others_every_transform(self):
        touched = self.transformed("image")
        assert (touched == touched[0]).all()
        assert touched[0].float().mean().item() == pytest.approx(0.5, abs=0.08)

    def test_one_coin_a_transform_leaves_one_in_sixteen_alone(self):
        touched = self.transformed("transform")
        assert touched.float().mean(1).tolist() == pytest.approx([0.5] * 4, abs=0.08)
        assert (~touched.any(0)).float().mean().item() == pytest.approx(1 / 16, abs=0.04)
        assert touched.all(0).float().mean().item() == pytest.approx(1 / 16, abs=0.04)

    @pytest.mark.parametrize("coin", ["image", "transform"])
    def test_no_chance_changes_nothing(self, coin):
        images = torch.randn(4, 3, 32, 32)
        coins = draw_transforms(images, 0.0, coin)
        assert torch.equal(geometric_view(images, *coins[:2], 0.5, 15.0), images)
        assert torch.equal(photometric_view(images, *coins[2:], 0.4, 0.25, 16), images)
        assert self.transformed(coin, 1.0, 40).all()

    @pytest.mark.parametrize("chance", [0.5, 0.25])
    def test_a_step_transforms_an_image_for_the_student_as_its_coin_says(self, monkeypatch, chance):
        frozen = teacher("vit")
        method, batch = make(PCAGL, frozen, student("cnn"), view_chance=chance), batch_for(frozen, 64)
        with seeded("views"):
            mine, theirs = self.seen_by(monkeypatch, method, batch)
        moved, coloured = ((a - b).abs().flatten(1).amax(1) > 1e-5 for a, b in [(theirs, batch.images), (mine, theirs)])
        assert torch.equal(moved, coloured)
        assert moved.float().mean().item() == pytest.approx(chance, abs=0.17)

    def test_masks_are_of_whole_patches(self):
        with seeded("mask"):
            seen = photometric_view(torch.ones(50, 3, 40, 40), NEVER, ALWAYS, 0.0, 0.25, 16)
        full = F.pad(seen, (0, 8, 0, 8), mode="replicate").unflatten(3, (3, 16)).unflatten(2, (3, 16))
        assert torch.equal(full.amin((3, 5)), full.amax((3, 5)))  # one value in each patch
        assert torch.equal(seen[:, 0], seen[:, 2])
        assert full.amin((3, 5)).mean().item() == pytest.approx(0.75, abs=0.07)

    def test_jitter_moves_brightness_contrast_and_saturation(self):
        images = torch.randn(60, 3, 8, 8)
        with seeded("jitter"):
            seen = photometric_view(images, ALWAYS, NEVER, 0.4, 0.0, 16)
        contrasts, saturations, brightness = [], [], []
        for image, found in zip(images, seen):
            grey, mine = image.mean(0), found.mean(0)
            contrast = ((grey - grey.mean()) * (mine - mine.mean())).sum() / (grey - grey.mean()).square().sum()
            assert torch.allclose(
                mine, grey.mean() + contrast * (grey - grey.mean()) + mine.mean() - grey.mean(), atol=1e-5
            )
            colour, own = image - grey, found - mine
            scale = (colour * own).sum() / colour.square().sum()
            assert torch.allclose(own, scale * colour, atol=1e-5)
            contrasts.append(contrast.item())
            saturations.append((scale / contrast).item())
            brightness.append((mine.mean() - grey.mean()).item())
        for found, centre in [(contrasts, 1), (saturations, 1), (brightness, 0)]:
            assert centre - 0.4001 < min(found) < centre - 0.2 and centre + 0.2 < max(found) < centre + 0.4001

    def seen_by(self, monkeypatch, method, batch):
        """What student and teacher get to see in one step; None for a teacher that is not asked."""
        seen = {}
        for name, model in [("student", method.student), ("teacher", method.teacher)]:
            run = model.forward
            monkeypatch.setattr(
                model, "forward", lambda x, run=run, name=name, **asked: seen.update({name: x}) or run(x, **asked)
            )
        method(batch)
        return seen["student"], seen.get("teacher")

    @pytest.mark.parametrize("mvg", ["aligned", "literal", "off"])
    def test_of_the_student_and_the_teacher(self, monkeypatch, mvg):
        frozen = teacher("vit")
        method, batch = make(PCAGL, frozen, student("cnn"), mvg=mvg, jitter=0.0, mask_ratio=0.0), batch_for(frozen, 8)
        with seeded("views"):
            mine, theirs = self.seen_by(monkeypatch, method, batch)
        assert torch.equal(mine, batch.images) == (mvg == "off")
        assert theirs is None if mvg != "aligned" else torch.allclose(theirs, mine, atol=1e-5)

    def test_colour_and_masks_are_the_students_alone(self, monkeypatch):
        frozen = teacher("vit")
        method, batch = make(PCAGL, frozen, student("cnn"), crop_area=1.0, rotation=0.0), batch_for(frozen, 8)
        with seeded("views"):
            mine, theirs = self.seen_by(monkeypatch, method, batch)
        assert torch.allclose(theirs, batch.images, atol=1e-3) and (mine - theirs).abs().max() > 0.1

    def test_there_are_none_in_evaluation(self):
        frozen = teacher("vit")
        method, batch = make(PCAGL, frozen, student("cnn")).eval(), batch_for(frozen)
        first, second = method(batch).losses, method(batch).losses
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert torch.equal(method(batch).logits, method.student(batch.images).logits)
        method.train()
        assert not torch.equal(method(batch).losses["pca"], method(batch).losses["pca"])


def test_losses_are_the_objective_written_out():
    frozen = teacher("vit")
    weights = {"pca_weight": 0.5, "gl_weight": 2.0, "adversarial_weight": 0.3}
    method, batch = make(PCAGL, frozen, student("cnn"), **CLEAN, **weights), batch_for(frozen)
    step, h = method(batch), method.student(batch.images, stages=True).stages[2]
    own = method.pca(h).flatten(2).transpose(1, 2)  # B, N, 3 D
    q, k, v = (x.unflatten(2, (2, 32)).transpose(1, 2) for x in own.split(64, dim=2))
    given = torch.stack([x[:, :, 1:] for x in batch.teacher.attention])
    projected, taught = method.gl(h), batch.teacher.stages[3][:, 1:]
    fake, real = (method.discriminator(x).double() for x in (projected, taught))
    expected = {
        "label": F.cross_entropy(step.logits, batch.target),
        "pca": 0.5 * (F.scaled_dot_product_attention(q, k, v) - F.scaled_dot_product_attention(*given)).square().mean(),
        "value": 0.5 * relation_in_loops(v, given[2]),
        "gl": 2.0 * (projected - taught).square().mean(),
        "mvg": 0.3 * (1 - fake.sigmoid()).log().mean(),
        "discriminator": -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean(),
    }
    found = {k: v.item() for k, v in {**step.losses, **step.adversary}.items()}
    assert found == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-4)


def test_a_student_with_the_teachers_q_k_and_v_has_nothing_to_learn_of_them(monkeypatch):
    frozen = teacher("swin")
    method, batch = make(PCAGL, frozen, student("cnn"), mvg="off"), batch_for(frozen)
    own = torch.cat([x.transpose(2, 3).flatten(1, 2) for x in batch.teacher.attention], 1).unflatten(2, (4, 4))
    monkeypatch.setattr(method.pca, "forward", lambda x: own)
    losses = method(batch).losses
    assert losses["pca"] == 0 and losses["value"] == 0


@pytest.mark.parametrize("net", ["vit", "swin", "mixer"])
def test_what_it_projects_is_what_its_losses_compare(net):
    method = make(PCAGL, teacher(net), student("cnn"), **CLEAN).eval()
    batch = batch_for(method.teacher)
    with torch.no_grad():
        losses = method.distill_step(batch).losses
        pairs = method.projected(batch.images)
    assert set(pairs) == {"tokens (GL)"} | ({"attention output (PCA)"} if net != "mixer" else set())
    assert F.mse_loss(*pairs["tokens (GL)"]) == pytest.approx(float(losses["gl"]), rel=1e-5)
    if net != "mixer":
        assert F.mse_loss(*pairs["attention output (PCA)"]) == pytest.approx(float(losses["pca"]), rel=1e-5)
    assert all(x.shape == y.shape and x.shape[1] == method.layout.channels for x, y in pairs.values())


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_maps_of_any_stage_come_to_the_teachers_grid(stage):
    frozen = teacher("vit")
    method, batch = make(PCAGL, frozen, student("cnn"), student_stage=stage), batch_for(frozen, size=2)
    assert method(batch).total.isfinite()
    assert method.gl.weight.shape[1] == method.student.layouts[stage - 1].channels


def test_the_label_loss_has_its_weight():
    frozen = teacher("vit")
    batch = batch_for(frozen)
    whole, less, none = (
        make(PCAGL, frozen, student("cnn"), label_weight=weight, mvg="off").eval()(batch).losses["label"]
        for weight in (1.0, 0.25, 0.0)
    )
    assert whole > 0 and torch.allclose(less, whole / 4) and none == 0


class TestAdversary:
    def method(self, **config):
        self.frozen = teacher("vit")
        return make(PCAGL, self.frozen, student("cnn"), **config), batch_for(self.frozen)

    def test_logit_of_a_sample_is_the_mean_over_its_tokens(self):
        judge, tokens = make_discriminator(8), torch.randn(3, 5, 8)
        layers = [module for module in judge if isinstance(module, torch.nn.Linear)]
        assert [(m.in_features, m.out_features) for m in layers] == [(8, 4), (4, 2), (2, 1)]
        expected = [
            torch.stack([layers[2](F.leaky_relu(layers[1](F.leaky_relu(layers[0](t), 0.2)), 0.2)) for t in each]).mean()
            for each in tokens
        ]
        assert torch.allclose(judge(tokens), torch.stack(expected), atol=1e-6)

    def test_its_loss_trains_it_alone_and_the_students_loss_everything_else(self):
        method, batch = self.method()
        step = method(batch)
        inside = {name for name, _ in method.named_parameters() if name.startswith("discriminator.")}
        assert reached(gradients(step.adversary["discriminator"], method.named_parameters())) == inside
        fooling = reached(gradients(step.losses["mvg"], method.named_parameters()))
        assert {"gl.weight", "gl.bias"} < fooling and not fooling & inside

    def test_has_an_optimizer_of_its_own(self):
        method, _ = self.method(disc_lr=0.02)
        (own,) = method.extra_optimizers()
        recipe = SimpleNamespace(optimizer=Optimizer(name="sgd", lr=0.1, weight_decay=0.01))
        main = make_optimizer(method, recipe, [own])
        taken, rest = ({id(p) for p in parameters_of(each)} for each in (own, main))
        assert taken == {id(p) for p in method.discriminator.parameters()}
        assert taken | rest == {id(p) for p in method.parameters()} and not taken & rest
        group = own.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.5, 0.999), 0)
        method, _ = self.method(disc_betas=(0.9, 0.99))
        assert method.extra_optimizers()[0].param_groups[0]["betas"] == (0.9, 0.99)

    @pytest.mark.parametrize("epoch", [0, 1, 4, 5])
    def test_changes_in_every_fifth_epoch_only(self, epoch):
        method, batch = self.method()
        (own,) = method.extra_optimizers()
        rest = torch.optim.SGD([p for p in method.parameters() if p not in set(method.discriminator.parameters())], 0.1)
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        step = method(replace(batch, epoch=epoch, step=7))
        sum([*step.losses.values(), *step.adversary.values()]).backward()
        rest.step()
        changed = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        assert not any(name.startswith("discriminator.") for name in changed) and "gl.weight" in changed
        own.step()
        moved = {
            name
            for name, p in method.discriminator.named_parameters()
            if not torch.equal(p, before[f"discriminator.{name}"])
        }
        assert moved == (set() if epoch % 5 else {name for name, _ in method.discriminator.named_parameters()})

    def test_may_count_steps_instead(self):
        method, batch = self.method(disc_unit="step", disc_every=3)
        trains = [bool(method(replace(batch, epoch=1, step=number)).adversary) for number in range(5)]
        assert trains == [True, False, False, True, False]

    def test_without_weight_there_is_none(self):
        method, batch = self.method(adversarial_weight=0.0)
        step = method(batch)
        assert method.discriminator is None and method.extra_optimizers() == []
        assert not step.adversary and "mvg" not in step.losses


@pytest.mark.parametrize("variant", [None, *PCAGL.variants])
def test_every_variant_steps_under_a_teacher_without_attention(variant):
    frozen = teacher("mixer")
    method, batch = make(PCAGL, frozen, student("cnn"), **PCAGL.variants.get(variant, {})), batch_for(frozen, 2)
    for part in ("logits", "pooled", "stages", "preacts", "attention"):
        if part not in method.needs:
            setattr(batch.teacher, part, None)
    step = method(batch)
    assert {"label"} <= set(step.losses) <= {"label", "gl", "mvg"}
    sum([*step.losses.values(), *step.adversary.values()]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize(
    "net, config, needs",
    [
        ("vit", {}, {"model"}),
        ("vit", {"mvg": "literal"}, {"stages", "attention"}),
        ("swin", {"mvg": "off"}, {"stages", "attention"}),
        ("vit", {"mvg": "off", "pca_weight": 0.0}, {"stages"}),
        ("mixer", {"mvg": "literal"}, {"stages"}),
    ],
)
def test_needs_no_more_of_the_teacher_than_it_reads(net, config, needs):
    method = make(PCAGL, teacher(net), student("cnn"), **config)
    assert method.needs == needs <= PCAGL.needs


@pytest.mark.parametrize("t", MINI)
@pytest.mark.parametrize("s", MINI)
def test_refuses_all_but_cnn_students_of_other_teachers(t, s):
    infos = model_info(MINI[t], CLASSES, 64), model_info(MINI[s], CLASSES, 64)
    reason = PCAGL.refuses(*infos, PCAGL.Config())
    if infos[1].kind != "cnn":
        assert f"{MINI[s]} is of kind {infos[1].kind}: use a CNN student" in reason
    elif infos[0].kind == "cnn":
        assert f"{MINI[t]} is a CNN: use a ViT or Swin" in reason
    else:
        assert reason is None


def test_refuses_transformers_it_cannot_look_into():
    blind, cnn = replace(model_info("vit_xs", CLASSES, 64), attention=None), model_info("resnet_s", CLASSES, 64)
    assert "set pcagl.pca_weight=0" in PCAGL.refuses(blind, cnn, PCAGL.Config())
    assert PCAGL.refuses(blind, cnn, PCAGL.Config(pca_weight=0.0)) is None
