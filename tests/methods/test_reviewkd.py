"""ReviewKD: its loss against loops over the maps, the blocks against plain arithmetic, and the method as a whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods.reviewkd import Review, ReviewKD, hcl_loss
from cakdbench.models.staged import StagedModel
from tests.methods.method_lab import batch_for, make, student, teacher

seeds = st.integers(0, 2**31)
sides = st.integers(1, 9)
few = settings(max_examples=12, deadline=None)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled(x, side):
    """`(B, C, H, W)` averaged to side x side by loops; windows overlap where the size is no multiple."""
    height, width = x.shape[2:]
    out = np.zeros((*x.shape[:2], side, side))
    for i in range(side):
        for j in range(side):
            rows = slice(i * height // side, -((-(i + 1) * height) // side))
            columns = slice(j * width // side, -((-(j + 1) * width) // side))
            out[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    return out


def reference_hcl(student, teacher):
    """The released loop, in numpy."""
    student, teacher = student.detach().numpy(), teacher.numpy()
    loss, count, total = ((student - teacher) ** 2).mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        count /= 2.0
        loss += count * ((pooled(student, side) - pooled(teacher, side)) ** 2).mean()
        total += count
    return loss / total


class TestLoss:
    @few
    @given(seeds, sides, sides)
    def test_is_the_released_loop(self, seed, height, width):
        student, teacher = draw(seed, 2, 3, height, width), draw(seed + 1, 2, 3, height, width)
        assert hcl_loss(student, teacher).item() == pytest.approx(reference_hcl(student, teacher), rel=1e-10)

    @pytest.mark.parametrize("height, used", [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (14, 3)])
    def test_sizes_below_the_height_are_used(self, height, used):
        """A difference that every pooling averages away: only the map itself counts."""
        student = torch.zeros(1, 1, height, 64, dtype=torch.float64)
        student[..., ::2], student[..., 1::2] = 1.0, -1.0
        total = 1 + sum((0.5, 0.25, 0.125)[:used])
        assert hcl_loss(student, torch.zeros_like(student)).item() == pytest.approx(1 / total)

    @pytest.mark.parametrize("height", [1, 2, 4, 7])
    def test_gradient_is_that_of_finite_differences(self, height):
        student, teacher = draw(0, 2, 2, height, height).requires_grad_(), draw(1, 2, 2, height, height)
        assert torch.autograd.gradcheck(lambda x: hcl_loss(x, teacher), student)

    @few
    @given(seeds, sides, st.floats(-10, 10))
    def test_a_shift_costs_its_square_whatever_the_height(self, seed, height, shift):
        maps = draw(seed, 2, 3, height, height)
        assert hcl_loss(maps + shift, maps).item() == pytest.approx(shift**2, rel=1e-9, abs=1e-12)

    @few
    @given(seeds, sides)
    def test_equal_maps_cost_nothing(self, seed, height):
        maps = draw(seed, 2, 3, height, height).requires_grad_()
        loss = hcl_loss(maps, maps.detach().clone())
        assert loss.item() == 0 and not torch.autograd.grad(loss, maps)[0].any()

    @few
    @given(seeds, sides)
    def test_order_and_repetition_of_the_samples_do_not_matter(self, seed, height):
        student, teacher = draw(seed, 3, 2, height, height), draw(seed + 1, 3, 2, height, height)
        loss = hcl_loss(student, teacher).item()
        assert hcl_loss(student[[2, 0, 1]], teacher[[2, 0, 1]]).item() == pytest.approx(loss)
        assert hcl_loss(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)).item() == pytest.approx(loss)

    @pytest.mark.parametrize("case", ["large", "constant", "identical", "zero"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_is_finite_for_maps_of_any_size(self, case, dtype):
        maps = {"large": 1e4 * draw(0, 2, 3, 7, 7), "constant": torch.full((2, 3, 7, 7), 1e4)}
        maps |= {"identical": draw(0, 1, 3, 7, 7).expand(2, -1, -1, -1), "zero": torch.zeros(2, 3, 7, 7)}
        student = maps[case].to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = hcl_loss(student, -maps[case].to(dtype))
        loss.backward()
        assert loss.dtype is torch.float32 and loss.isfinite() and student.grad.isfinite().all()

    def test_half_precision_maps_are_compared_in_full(self):
        student, teacher = draw(0, 2, 3, 7, 7).bfloat16(), draw(1, 2, 3, 7, 7).bfloat16()
        assert hcl_loss(student, teacher) == hcl_loss(student.float(), teacher.float())


def normed(x, norm):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    scaled = (x - mean) / torch.sqrt(var + norm.eps)
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def released_block(block, x, y):
    """The forward pass of the released ABF, written down again; it returns the map after the last resize."""
    x = normed(torch.einsum("oc,bchw->bohw", block.enter[0].weight[:, :, 0, 0], x), block.enter[1])
    if y is not None:
        y = F.interpolate(y, x.shape[-2:], mode="nearest")
        scores = torch.einsum("oc,bchw->bohw", block.attention[0].weight[:, :, 0, 0], torch.cat([x, y], 1))
        z = torch.sigmoid(scores + block.attention[0].bias[:, None, None])
        x = x * z[:, 0].unsqueeze(1) + y * z[:, 1].unsqueeze(1)
    if x.shape[-2:] != block.size:
        x = F.interpolate(x, block.size, mode="nearest")
    return normed(F.conv2d(x, block.leave[0].weight, padding=1), block.leave[1]), x


def released_review(blocks, levels):
    handed, outs = None, []
    for block, x in zip(blocks[::-1], levels[::-1]):
        out, handed = released_block(block, x, handed)
        outs.insert(0, out)
    return outs


def levels_of(method, batch):
    """The student's five maps: four stages and the pooled feature."""
    out = method.student(batch.images, stages=True)
    maps = [layout.to_map(x) for layout, x in zip(method.student.layouts, out.stages)]
    return [*maps, out.pooled[:, :, None, None]]


class TestReview:
    @pytest.mark.parametrize("pair", [("swin", "cnn"), ("mixer", "vit"), ("cnn", "convnext")])
    def test_blocks_do_what_the_released_ones_do_on_equal_grids(self, pair):
        frozen = teacher(pair[0])
        method, batch = make(ReviewKD, frozen, student(pair[1])), batch_for(frozen)
        levels = levels_of(method, batch)
        for found, expected in zip(method.review(levels), released_review(method.blocks, levels), strict=True):
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_blocks_do_what_the_released_ones_do_for_a_finer_teacher(self):
        torch.manual_seed(0)
        shallow, deep = Review(4, 6, 5, (8, 8), False).double(), Review(3, 6, 7, (4, 4), True).double()
        x, y = draw(0, 2, 4, 4, 4), draw(1, 2, 3, 2, 2)
        out, handed = deep(y, None)
        assert handed.shape == (2, 6, 2, 2)
        expected = released_review([shallow, deep], [x, y])
        assert torch.allclose(out, expected[1]) and torch.allclose(shallow(x, handed)[0], expected[0])

    def test_a_coarse_teacher_does_not_coarsen_what_is_handed_on(self):
        deep = Review(3, 6, 7, (2, 2), True)
        out, handed = deep(torch.randn(2, 3, 4, 4), None)
        assert out.shape == (2, 7, 2, 2) and handed.shape == (2, 6, 4, 4)

    def test_only_the_deepest_block_has_no_attention(self):
        method = make(ReviewKD, teacher("cnn"), student("vit"))
        assert [block.attention is None for block in method.blocks] == [False] * 4 + [True]

    @pytest.mark.parametrize("level", range(5))
    def test_information_flows_from_deep_to_shallow_only(self, level):
        frozen = teacher("swin")
        method, batch = make(ReviewKD, frozen, student("cnn")), batch_for(frozen)
        levels = levels_of(method, batch)
        changed = [*levels[:level], torch.zeros_like(levels[level]), *levels[level + 1 :]]
        same = [torch.equal(a, b) for a, b in zip(method.review(levels), method.review(changed))]
        assert same == [False] * (level + 1) + [True] * (4 - level)

    @pytest.mark.parametrize("pair", [("vit", "swin"), ("convnext", "resmlp"), ("swin", "vit"), ("mobilenet", "mixer")])
    def test_maps_come_out_in_the_teachers_shapes(self, pair):
        frozen = teacher(pair[0])
        method, batch = make(ReviewKD, frozen, student(pair[1])), batch_for(frozen)
        wanted = [(4, layout.channels, *layout.grid) for layout in frozen.layouts] + [(4, frozen.width, 1, 1)]
        assert [tuple(out.shape) for out in method.review(levels_of(method, batch))] == wanted

    def test_convolutions_start_as_released(self):
        block = Review(128, 256, 64, (4, 4), False)
        for conv, fan in ((block.enter[0], 128), (block.leave[0], 9 * 256)):
            bound = (3 / fan) ** 0.5
            assert bound * 0.99 < conv.weight.abs().max() <= bound and conv.bias is None
        assert block.attention[0].bias is not None


def five(output, features):
    """The five maps of a CNN."""
    return [*(output.preacts if features == "preact" else output.stages), output.pooled.reshape(4, -1, 1, 1)]


class TestMethod:
    @pytest.mark.parametrize("given, own", [("preact", "post"), ("post", "post"), ("preact", "preact")])
    def test_loss_is_the_weighted_sum_over_five_levels_on_the_chosen_side_of_the_activation(self, given, own):
        frozen = teacher("cnn")
        settings = {"teacher_features": given, "student_features": own, "weight": 3.0}
        method, batch = make(ReviewKD, frozen, student("cnn"), **settings), batch_for(frozen)
        targets, outs = five(batch.teacher, given), method.review(five(method.student(batch.images, True, True), own))
        expected = sum(reference_hcl(out.double(), t.double()) for out, t in zip(outs, targets, strict=True))
        assert method(batch).losses["reviewkd"].item() == pytest.approx(3 * expected, rel=1e-5)

    def test_prefix_tokens_are_not_compared(self):
        frozen = teacher("vit")
        method, batch = make(ReviewKD, frozen, student("cnn")), batch_for(frozen)
        loss = method(batch).losses["reviewkd"].item()
        batch.teacher.preacts = tuple(
            torch.cat([torch.full_like(x[:, :1], 9.0), x[:, 1:]], 1) for x in batch.teacher.preacts
        )
        assert method(batch).losses["reviewkd"].item() == pytest.approx(loss)

    @pytest.mark.parametrize("choice, part, other", [("preact", "preacts", "stages"), ("post", "stages", "preacts")])
    def test_reads_of_the_teacher_what_it_needs(self, choice, part, other):
        frozen = teacher("cnn")
        method, batch = make(ReviewKD, frozen, student("vit"), teacher_features=choice), batch_for(frozen)
        batch.teacher.logits = batch.teacher.attention = None
        setattr(batch.teacher, other, None)
        assert method.needs == {"pooled", part} and method(batch).total.isfinite()

    @pytest.mark.parametrize("warmup, epoch, share", [(0, 0, 1), (20, 0, 0.05), (20, 9, 0.5), (20, 19, 1), (20, 50, 1)])
    def test_the_weight_grows_over_the_warmup(self, warmup, epoch, share):
        assert ReviewKD.Config(warmup_epochs=warmup).ramp(epoch) == pytest.approx(share)

    def test_the_ramp_scales_the_loss(self):
        frozen = teacher("cnn")
        batch = batch_for(frozen)
        full = make(ReviewKD, frozen, student("vit"))(batch).losses["reviewkd"].item()
        batch.epoch = 4
        ramped = make(ReviewKD, frozen, student("vit"), warmup_epochs=20)(batch).losses["reviewkd"].item()
        assert ramped == pytest.approx(full / 4)

    @pytest.mark.parametrize("name, mid, width", [("cnn", 0, 128), ("mobilenet", 0, 320), ("vit", 48, 48)])
    def test_extra_parameters_have_the_closed_form(self, name, mid, width):
        frozen, model = teacher("swin"), student(name)
        own = [*(layout.channels for layout in model.layouts), model.width]
        out = [*(layout.channels for layout in frozen.layouts), frozen.width]
        convs = sum(c * width + 9 * width * t for c, t in zip(own, out))
        norms, attention = sum(2 * width + 2 * t for t in out), 4 * (4 * width + 2)
        assert make(ReviewKD, frozen, model, mid=mid).extra_parameters() == convs + norms + attention

    def test_blocks_are_512_wide_at_most(self):
        with torch.device("meta"):
            method = ReviewKD(StagedModel("resnet50", 10), StagedModel("deit_t", 10), ReviewKD.Config())
        assert method.blocks[0].enter[0].out_channels == 512
