"""OFD: its loss and margins against plain arithmetic, the calibration, and the method as a whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cakdbench.methods import ofd
from cakdbench.methods.ofd import OFD, connector, margin_from_norm, margin_from_responses, ofd_loss, on_one_grid
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from cakdbench.utils.rng import seeded
from tests.methods.method_lab import batch_for, make, student, teacher

seeds = st.integers(0, 2**31)
few = settings(max_examples=12, deadline=None)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps_of(seed, batch=3, channels=4, height=2, width=3):
    """Student and teacher maps, and negative margins, in double precision."""
    shape = batch, channels, height, width
    return draw(seed, *shape).requires_grad_(), draw(seed + 1, *shape), -draw(seed + 2, channels).abs()


def reference_ofd(student, teacher, margin):
    """mdistiller's three cases, element by element: the loss and its gradient."""
    loss, gradient = 0.0, np.zeros(student.shape)
    for place, s in np.ndenumerate(student.detach().numpy()):
        t, m = teacher[place].item(), margin[place[1]].item()
        if t <= m:
            goal, counts = m, s > m
        elif t <= 0:
            goal, counts = t, s > t
        else:
            goal, counts = t, True
        if counts:
            loss += (s - goal) ** 2 / len(student)
            gradient[place] = 2 * (s - goal) / len(student)
    return loss, gradient


class TestLoss:
    @few
    @given(seeds, st.integers(1, 4))
    def test_is_the_released_loss(self, seed, batch):
        student, teacher, margin = maps_of(seed, batch)
        loss = ofd_loss(student, teacher, margin)
        value, gradient = reference_ofd(student, teacher, margin)
        assert loss.item() == pytest.approx(value, rel=1e-10)
        assert np.allclose(torch.autograd.grad(loss, student)[0].numpy(), gradient, rtol=1e-10, atol=0)

    @pytest.mark.parametrize(
        "s, t, expected",
        [
            (2.0, 3.0, 1.0),
            (-2.0, 1.0, 9.0),
            (-0.1, -0.3, 0.04),
            (-0.4, -0.3, 0.0),
            (-0.2, -5.0, 0.09),
            (-0.6, -5.0, 0.0),
        ]
        + [(1.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (-0.5, -0.5, 0.0)],
    )
    def test_each_case_by_hand(self, s, t, expected):
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        assert ofd_loss(s * one, t * one, torch.tensor([-0.5])).item() == pytest.approx(expected)

    @few
    @given(seeds)
    def test_the_cut_teacher_itself_costs_nothing(self, seed):
        _, teacher, margin = maps_of(seed)
        student = teacher.maximum(margin.reshape(1, -1, 1, 1)).requires_grad_()
        loss = ofd_loss(student, teacher, margin)
        assert loss.item() == 0 and not torch.autograd.grad(loss, student)[0].any()

    @few
    @given(seeds)
    def test_below_a_negative_target_there_is_no_penalty(self, seed):
        student, teacher, margin = maps_of(seed)
        teacher = -teacher.abs()
        student = (teacher.maximum(margin[:, None, None]) - student.detach().abs()).requires_grad_()
        loss = ofd_loss(student, teacher, margin)
        assert loss.item() == 0 and not torch.autograd.grad(loss, student)[0].any()

    @few
    @given(seeds, st.integers(2, 4))
    def test_order_and_repetition_of_the_samples_do_not_matter(self, seed, times):
        student, teacher, margin = maps_of(seed)
        loss = ofd_loss(student, teacher, margin).item()
        assert ofd_loss(student.flip(0), teacher.flip(0), margin).item() == pytest.approx(loss)
        repeated = (x.repeat(times, 1, 1, 1) for x in (student, teacher))
        assert ofd_loss(*repeated, margin).item() == pytest.approx(loss)

    @few
    @given(seeds)
    def test_is_never_above_the_squared_distance(self, seed):
        student, teacher, margin = maps_of(seed)
        squared = (student - teacher.maximum(margin[:, None, None])).square().sum() / len(student)
        assert 0 <= ofd_loss(student, teacher, margin) <= squared

    @pytest.mark.parametrize("case", ["large", "constant", "identical", "zero"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_is_finite_for_maps_of_any_size(self, case, dtype):
        maps = {"large": 1e4 * draw(0, 2, 3, 7, 7), "constant": torch.full((2, 3, 7, 7), 1e4)}
        maps |= {"identical": draw(0, 1, 3, 7, 7).expand(2, -1, -1, -1), "zero": torch.zeros(2, 3, 7, 7)}
        for sign in (1, -1):
            student, given = maps[case].to(dtype).requires_grad_(), sign * maps[case].to(dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                margin = margin_from_responses(given)
                loss = ofd_loss(student, given, margin)
            loss.backward()
            assert margin.isfinite().all() and (margin < 0).all()
            assert loss.dtype is torch.float32 and loss.isfinite() and student.grad.isfinite().all()

    def test_half_precision_maps_are_compared_in_full(self):
        student, teacher, margin = (x.detach().bfloat16() for x in maps_of(0))
        assert ofd_loss(student, teacher, margin) == ofd_loss(student.float(), teacher.float(), margin.float())


def norm_of(weights, biases):
    norm = nn.BatchNorm2d(len(weights)).double()
    norm.weight.data, norm.bias.data = (torch.tensor(x, dtype=torch.float64) for x in (weights, biases))
    return norm


class TestMargins:
    @pytest.mark.parametrize("weight, bias", [(1.0, 0.0), (2.0, -1.0), (-0.5, 0.7), (0.1, -3.0), (1.0, 2.5)])
    def test_closed_form_is_the_mean_of_the_negative_draws(self, weight, bias):
        draws = bias + weight * draw(0, 2_000_000)
        expected = draws[draws < 0].mean().item()
        assert margin_from_norm(norm_of([weight], [bias])).item() == pytest.approx(expected, abs=0.02 * abs(weight))

    @few
    @given(st.floats(-5, 5), st.floats(1e-3, 10))
    def test_closed_form_is_the_released_one(self, bias, weight):
        below = 0.5 * math.erfc(bias / weight / math.sqrt(2))
        expected = -3 * weight
        if below > 0.001:
            expected = -weight * math.exp(-((bias / weight) ** 2) / 2) / math.sqrt(2 * math.pi) / below + bias
        found = margin_from_norm(norm_of([weight, -weight], [bias, bias]))
        assert found.tolist() == pytest.approx([expected, expected], rel=1e-9)

    @pytest.mark.parametrize("bias, expected", [(-2.0, -2.0), (0.0, 0.0), (2.0, 0.0)])
    def test_a_weight_of_0_gives_what_small_weights_approach(self, bias, expected):
        margin = margin_from_norm(norm_of([0.0], [bias]))
        assert margin.item() == pytest.approx(expected, abs=1e-9) and (margin < 0).all()

    @few
    @given(st.floats(-50, 50), st.floats(1e-6, 50))
    def test_is_always_negative(self, bias, weight):
        assert -math.inf < margin_from_norm(norm_of([weight], [bias])).item() < 0

    @few
    @given(seeds)
    def test_measured_margins_are_means_of_what_is_negative(self, seed):
        maps = draw(seed, 3, 4, 2, 5)
        expected = [x[x < 0].mean() for x in maps.numpy().transpose(1, 0, 2, 3)]
        assert margin_from_responses(maps).tolist() == pytest.approx(expected, rel=1e-10)

    def test_measured_margins_where_negatives_are_rare(self):
        maps = draw(0, 4, 2, 30, 30) + 20
        maps[0, 1, 0, 0] = -1.0  # one of 3600
        deviations = maps.numpy().std(axis=(0, 2, 3))
        assert margin_from_responses(maps).tolist() == pytest.approx((-3 * deviations).tolist(), rel=1e-10)

    @pytest.mark.parametrize("bias", [0.0, 1.0])
    def test_both_kinds_agree_on_normal_responses(self, bias):
        maps = bias + 2 * draw(1, 50, 1, 60, 60)
        closed = margin_from_norm(norm_of([2.0], [bias]))
        assert margin_from_responses(maps).item() == pytest.approx(closed.item(), rel=0.02)


def test_maps_meet_on_the_coarser_grid():
    fine, coarse = draw(0, 2, 3, 8, 4), draw(1, 2, 5, 4, 6)
    a, b = on_one_grid(fine, coarse)
    assert torch.allclose(a, fine.reshape(2, 3, 4, 2, 4).mean(3)) and b.shape == (2, 5, 4, 4)
    assert on_one_grid(fine, fine)[0] is fine


def test_connectors_start_as_released():
    with seeded("connector"):
        conv, norm = connector(256, 128)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.02) and conv.bias is None
    assert conv.weight.mean().item() == pytest.approx(0, abs=2e-3) and (norm.weight == 1).all()


class TestCalibration:
    @pytest.mark.parametrize("name, measured", [("cnn", []), ("mobilenet", [0, 1, 2]), ("vit", [0, 1, 2, 3])])
    def test_only_stages_without_a_norm_are_measured(self, name, measured):
        frozen = teacher(name)
        method = make(OFD, frozen, student("cnn"))
        assert method.measured == measured and method.calibrated == (not measured)
        for stage in {0, 1, 2, 3} - set(measured):
            assert torch.equal(method.margins[stage], margin_from_norm(frozen.end_norms()[stage]))
            assert (method.margins[stage] < 0).all()

    def test_the_first_batch_gives_the_margins_and_no_later_one(self):
        frozen = teacher("vit")
        method, first = make(OFD, frozen, student("cnn")), batch_for(frozen, size=4)
        method(first)
        after_first = [margin.clone() for margin in method.margins]
        for margin, x in zip(after_first, first.teacher.stages):
            patches = x[:, 1:].flatten(0, 1)
            assert torch.allclose(margin, (patches * (patches < 0)).sum(0) / (patches < 0).sum(0), atol=1e-5)
        method(batch_for(frozen, size=3))
        assert all(torch.equal(a, b) for a, b in zip(method.margins, after_first, strict=True))

    def test_all_processes_take_those_of_the_first(self, monkeypatch):
        frozen = teacher("mobilenet")
        monkeypatch.setattr(ofd, "broadcast", lambda x: torch.full_like(x, -7.0))
        method = make(OFD, frozen, student("cnn"))
        method(batch_for(frozen))
        assert all((margin == -7).all() for margin in method.margins[:3])
        assert torch.equal(method.margins[3], margin_from_norm(frozen.end_norms()[3]))

    @pytest.mark.parametrize("steps", [0, 1])
    def test_a_resumed_run_goes_on_with_the_same_margins(self, steps):
        frozen = teacher("swin")
        model = student("cnn")
        method, batch, later = make(OFD, frozen, model), batch_for(frozen, size=4), batch_for(frozen, size=3)
        for _ in range(steps):
            method(batch)
        resumed = make(OFD, frozen, student("cnn"))
        if not steps:
            resumed(batch)  # a state from before the first step takes the margins back
        state = {name: value.clone() for name, value in method.state_dict().items()}
        resumed.load_state_dict(state)
        assert resumed.calibrated == bool(steps)
        assert resumed(later).losses["ofd"].item() == method(later).losses["ofd"].item()
        assert all(torch.equal(a, b) for a, b in zip(resumed.margins, method.margins, strict=True))

    def test_responses_are_measured_everywhere_if_asked(self):
        frozen = teacher("cnn")
        method, batch = make(OFD, frozen, student("cnn"), margin="responses"), batch_for(frozen)
        method(batch)
        for margin, x in zip(method.margins, batch.teacher.preacts):
            assert torch.equal(margin, margin_from_responses(x)) and (margin < 0).all()


class TestMethod:
    @pytest.mark.parametrize("features", ["preact", "post"])
    def test_loss_is_the_weighted_sum_over_the_stages(self, features):
        frozen = teacher("cnn")
        method, batch = make(OFD, frozen, student("cnn"), weight=0.5, student_features=features), batch_for(frozen)
        out = method.student(batch.images, stages=True, preacts=True)
        own = out.preacts if features == "preact" else out.stages
        expected = 0.0
        for i, weight in enumerate((1 / 8, 1 / 4, 1 / 2, 1)):
            margin = margin_from_norm(frozen.end_norms()[i])
            expected += weight * reference_ofd(method.connectors[i](own[i]), batch.teacher.preacts[i], margin)[0]
        assert method(batch).losses["ofd"].item() == pytest.approx(0.5 * expected, rel=1e-4)

    def test_a_finer_teacher_is_averaged_before_it_is_cut_off(self):
        frozen = teacher("cnn")
        method, batch = make(OFD, frozen, student("vit")), batch_for(frozen)
        out = method.student(batch.images, stages=True)
        expected = 0.0
        for i, weight in enumerate((1 / 8, 1 / 4, 1 / 2, 1)):
            own = method.connectors[i](out.stages[i][:, 1:].transpose(1, 2).reshape(4, 64, 4, 4))
            given, side = batch.teacher.preacts[i], (4, 4, 4, 2)[i]
            own, given = (x.unflatten(3, (side, -1)).unflatten(2, (side, -1)).mean((3, 5)) for x in (own, given))
            expected += weight * reference_ofd(own, given, method.margins[i])[0]
        assert method(batch).losses["ofd"].item() == pytest.approx(1e-3 * expected, rel=1e-4)

    @pytest.mark.parametrize("pair", [("swin", "cnn"), ("cnn", "vit")])
    def test_extra_parameters_have_the_closed_form(self, pair):
        frozen, model = teacher(pair[0]), student(pair[1])
        widths = [(own.channels, given.channels) for own, given in zip(model.layouts, frozen.layouts)]
        assert make(OFD, frozen, model).extra_parameters() == sum(s * t + 2 * t for s, t in widths)

    def test_parameters_are_counted_without_weights(self):
        with torch.device("meta"):
            method = OFD(StagedModel("deit_t", 10), StagedModel("resnet50", 10), OFD.Config())
        assert method.extra_parameters() == sum(192 * c + 2 * c for c in (256, 512, 1024, 2048))

    @pytest.mark.parametrize("dataset, weight", [("cifar100", 1e-3), ("imagenet1k", 1e-4)])
    def test_settings_of_the_authors(self, dataset, weight):
        infos = model_info("swin_t", 100), model_info("resnet18", 100)
        assert resolve_config(OFD, None, *infos, dataset).weight == weight
