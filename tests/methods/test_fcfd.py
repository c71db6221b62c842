"""FCFD: mixed paths through both networks, the features they leave in the teacher's space, what each loss trains."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cakdbench.methods.fcfd import FCFD, PATHS, Bridge, feature_loss, pooled_loss
from cakdbench.models.staged import Layout
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from cakdbench.utils.rng import seeded
from tests.methods.method_lab import CLASSES, MINI, batch_for, gradients, make, reached, student, teacher

PAIRS = [
    *[("vit", "cnn"), ("swin", "mobilenet"), ("mixer", "convnext"), ("cnn", "vit"), ("convnext", "swin")],
    *[("mobilenet", "mixer"), ("resmlp", "vit"), ("vit", "resmlp"), ("swin", "swin"), ("cnn", "cnn")],
]


def draw(*paths):
    """Stands in for `torch.randperm`: these paths come first."""
    return lambda n: torch.tensor([*paths, *sorted(set(range(n)) - set(paths))])


def kl(student, teacher, temperature):
    """The mean over samples of `T^2 sum_c p_c (log p_c - log q_c)`, in loops."""
    total = 0.0
    for z, given in zip(student.double() / temperature, teacher.double() / temperature):
        p, q = given.exp() / given.exp().sum(), z.exp() / z.exp().sum()
        total += sum(a * (a.log() - b.log()) for a, b in zip(p, q))
    return temperature**2 * total / len(student)


def half_of(net, stage):
    """Names of the student's parameters that its stages up to `stage`, and the later ones, depend on."""
    model, features = student(net), {}
    images = batch_for().images
    early = reached(gradients(model(images, stages=True).stages[stage - 1].square().sum(), model.named_parameters()))
    x = model(images, stages=True).stages[stage - 1].detach()
    for number in range(stage + 1, 5):
        x = model.stage(number, x)
    late = reached(gradients(model.head(x).logits.square().sum(), model.named_parameters()))
    features.update(early={f"student.{n}" for n in early}, late={f"student.{n}" for n in late})
    return features


class TestLosses:
    @pytest.mark.parametrize("shape", [(3, 4, 2, 5), (2, 1, 1, 1)])
    def test_are_their_formulas_in_loops(self, shape):
        given = np.random.default_rng(0).normal(size=(2, *shape))
        mine, theirs = torch.tensor(given)
        squares = [(a - b) ** 2 for a, b in zip(given[0].ravel(), given[1].ravel())]
        assert feature_loss(mine, theirs).item() == pytest.approx(sum(squares) / len(squares), rel=1e-9)
        batch, channels, height, width = shape
        total = 0.0
        for b in range(batch):
            for c in range(channels):
                means = [np.maximum(x[b, c], 0).sum() / (height * width) for x in given]
                total += (means[0] - means[1]) ** 2
        assert pooled_loss(mine, theirs).item() == pytest.approx(total / (batch * channels), rel=1e-9)

    @pytest.mark.parametrize("loss", [feature_loss, pooled_loss])
    def test_gradients_are_those_of_the_values(self, loss):
        torch.manual_seed(0)
        mine, theirs = (torch.randn(2, 3, 2, 2, dtype=torch.float64) for _ in range(2))
        assert torch.autograd.gradcheck(loss, (mine.requires_grad_(), theirs))

    @pytest.mark.parametrize("loss", [feature_loss, pooled_loss])
    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_are_finite_for_features_of_any_size(self, loss, scale, dtype):
        torch.manual_seed(0)
        mine, theirs = (scale * torch.randn(2, 3, 2, 2) for _ in range(2))
        mine = mine.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(mine, theirs)
        assert value.dtype == torch.float32 and value.isfinite()
        assert torch.autograd.grad(value, mine)[0].isfinite().all()


class TestBridges:
    @pytest.mark.parametrize("source", MINI)
    def test_lead_from_every_stage_to_what_the_next_stage_takes(self, source):
        features = student(source)(batch_for().images, stages=True).stages
        for target in MINI:
            frozen = teacher(target)
            method = make(FCFD, frozen, student(source))
            for stage in (1, 2, 3, 4):
                bridge, layout = method.to_teacher[str(stage)], frozen.layouts[stage - 1]
                x = bridge(features[stage - 1])
                assert x.shape == (4, layout.channels, *layout.grid)
                if stage < 4:
                    assert bridge.entry(x).shape == (4, *layout.shape)
            assert list(method.to_student) == ["1", "2", "3"]

    @pytest.mark.parametrize(
        "old, new, kinds",
        [
            (8, 8, [nn.Conv2d]),
            (8, 4, [nn.Conv2d]),
            (4, 8, [nn.ConvTranspose2d]),
            (16, 4, [nn.AdaptiveAvgPool2d, nn.Conv2d]),
            (14, 56, [nn.Conv2d, nn.Upsample]),
            (7, 5, [nn.AdaptiveAvgPool2d, nn.Conv2d]),
        ],
    )
    def test_change_the_grid_as_little_as_they_can(self, old, new, kinds):
        bridge = Bridge(Layout(6, (old, old), False), Layout(10, (new, new), False), False)
        assert [type(module) for module in bridge.project] == [*kinds, nn.BatchNorm2d]
        assert bridge(torch.randn(2, 6, old, old)).shape == (2, 10, new, new)
        strides = {(8, 4): (2, 2), (4, 8): (2, 2)}
        convolution = next(m for m in bridge.project if hasattr(m, "stride"))
        assert convolution.stride == strides.get((old, new), (1, 1))

    def test_end_in_an_activation_where_the_stage_does(self):
        method = make(FCFD, teacher("cnn"), student("mobilenet"))
        assert all(isinstance(b.project[-1], nn.LeakyReLU) for b in method.to_teacher.values())
        assert method.to_teacher["1"].project[-1].negative_slope == 0.1
        assert not any(isinstance(b.project[-1], nn.LeakyReLU) for b in method.to_student.values())

    def test_own_the_prefix_of_networks_that_take_one(self):
        frozen, model = teacher("vit"), student("vit")
        method = make(FCFD, frozen, model)
        for bridges, net in [(method.to_teacher, frozen), (method.to_student, model)]:
            for stage in ("1", "2", "3"):
                assert torch.equal(bridges[stage].prefix, net.stage_prefix())
        assert method.to_teacher["4"].prefix is None
        prefixes = {f"to_{to}.{i}.prefix" for to in ("teacher", "student") for i in (1, 2, 3)}
        assert prefixes < method.no_weight_decay()
        x = torch.randn(4, 64, 4, 4)
        entered = method.to_teacher["1"].entry(x)
        assert torch.equal(frozen.layouts[0].to_map(entered), x)
        assert torch.equal(entered[:, :1], frozen.stage_prefix().expand(4, -1, -1))

    @pytest.mark.parametrize("pair", [("vit", "cnn"), ("cnn", "convnext"), ("mixer", "swin")])
    def test_have_the_parameters_of_their_convolutions(self, pair):
        frozen, model = teacher(pair[0]), student(pair[1])

        def size(source, target, stage):
            a, b = source.layouts[stage - 1], target.layouts[stage - 1]
            taps = 16 if b.grid[0] == 2 * a.grid[0] else 9
            prefix = b.prefix * b.channels if stage < 4 else 0
            return taps * a.channels * b.channels + 2 * b.channels + prefix

        expected = sum(size(model, frozen, i) for i in (1, 2, 3, 4)) + sum(size(frozen, model, i) for i in (1, 2, 3))
        assert make(FCFD, frozen, model).extra_parameters() == expected


class TestPaths:
    def test_are_distinct_and_all_come_up(self):
        frozen = teacher("mixer")
        method, batch = make(FCFD, frozen, student("vit")), batch_for(frozen, size=2)
        taken = []
        method._through = lambda model, stage, x: taken[-1].append((model, stage)) or (batch.teacher.logits, [])
        for seed in range(40):
            taken.append([])
            with seeded("paths", seed):
                method(batch)
        assert all(len(each) == 2 == len(set(each)) for each in taken)
        assert {(model is frozen, stage) for each in taken for model, stage in each} == {
            (direction == "to_teacher", stage) for direction, stage in PATHS
        }

    @pytest.mark.parametrize("count", [0, 1, 6])
    def test_are_as_many_as_asked_for(self, count):
        frozen = teacher("mixer")
        method, batch = make(FCFD, frozen, student("convnext"), paths=count), batch_for(frozen, size=2)
        taken = []
        method._through = lambda *given: taken.append(given) or (batch.teacher.logits, [])
        assert ("paths" in method(batch).losses) == bool(count)
        assert len(taken) == count

    def test_of_one_seed_are_the_same(self):
        frozen = teacher("convnext")
        method, batch = make(FCFD, frozen, student("mixer")), batch_for(frozen, size=2)
        values = []
        for seed in (1, 1, 2, 3, 4):
            with seeded(seed):
                values.append(method(batch).losses["paths"].item())
        assert values[0] == values[1] and len(set(values)) > 2

    @pytest.mark.parametrize("net", ["cnn", "mobilenet"])
    def test_leave_the_students_batch_norms_as_its_own_pass_left_them(self, net):
        frozen, plain = teacher("cnn"), student(net)
        method, batch = make(FCFD, frozen, copy.deepcopy(plain), paths=6), batch_for(frozen)
        before = {name: value.clone() for name, value in frozen.named_buffers()}
        method(batch)
        plain(batch.images)
        found, wanted = dict(method.student.named_buffers()), dict(plain.named_buffers())
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert all(torch.equal(value, before[name]) for name, value in frozen.named_buffers())

    @pytest.mark.parametrize("index", range(6))
    @pytest.mark.parametrize("pair", [("cnn", "swin"), ("vit", "cnn")])
    def test_train_the_half_of_the_student_that_they_run(self, monkeypatch, pair, index):
        frozen = teacher(pair[0])
        method, batch = make(FCFD, frozen, student(pair[1]), paths=1), batch_for(frozen)
        monkeypatch.setattr(torch, "randperm", draw(index))
        found = reached(gradients(method(batch).losses["paths"], method.named_parameters()))
        direction, stage = PATHS[index]
        half = half_of(pair[1], stage)["early" if direction == "to_teacher" else "late"]
        bridge = {name for name, _ in method.named_parameters() if name.startswith(f"{direction}.{stage}.")}
        assert found == half | bridge

    @pytest.mark.parametrize("net", ["convnext", "mixer", "swin"])
    def test_of_equal_networks_joined_by_nothing_lose_nothing(self, net):
        frozen, model = teacher(net), student(net)
        model.load_state_dict(frozen.state_dict())
        method, batch = make(FCFD, frozen, model, paths=6), batch_for(frozen)
        for bridge in (*method.to_teacher.values(), *method.to_student.values()):
            bridge.project = nn.Identity()
        losses = method(batch).losses
        assert {name for name, loss in losses.items() if loss > 1e-8} == {"label"}


def test_losses_are_the_objective_written_out(monkeypatch):
    frozen, model = teacher("swin"), student("convnext")
    settings = {"temperature": 3.0, "kd_weight": 0.5, "path_weight": 0.25, "weight": 2.0, "ramp": 4}
    method, batch = make(FCFD, frozen, model, **settings), replace(batch_for(frozen), epoch=1)
    monkeypatch.setattr(torch, "randperm", draw(1, 5))  # S to T after stage 2, T to S after stage 3
    step = method(batch)
    given, own = batch.teacher, model(batch.images, stages=True)
    bridged = [method.to_teacher[str(i)](own.stages[i - 1]) for i in (1, 2, 3, 4)]
    third = frozen.stage(3, bridged[1].flatten(2).transpose(1, 2))
    fourth = frozen.stage(4, third)
    crossing = model.stage(4, method.to_student["3"](given.stages[2]))
    targets = [x.transpose(1, 2).unflatten(2, grid.grid) for x, grid in zip(given.stages, frozen.layouts)]
    mixed = [x.transpose(1, 2).unflatten(2, frozen.layouts[i].grid) for i, x in ((2, third), (3, fourth))]
    squares = [(a - b).square().mean() for a, b in zip([*bridged, *mixed], [*targets, *targets[2:]])]
    pooled = [x.clamp(min=0).flatten(2).mean(2) for x in (targets[3], bridged[3], mixed[1])]
    expected = {
        "label": nn.functional.cross_entropy(own.logits, batch.target),
        "kd": 0.5 * kl(own.logits, given.logits, 3.0),
        "paths": 0.25
        * sum(kl(z, given.logits, 3.0) for z in (frozen.head(fourth).logits, model.head(crossing).logits)),
        "features": 2.0 * 2 / 4 * sum(squares),
        "pooled": 2.0 * 2 / 4 * sum((x - pooled[0]).square().mean() for x in pooled[1:]),
    }
    assert {k: v.item() for k, v in step.losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize("epoch, share", [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0)])
def test_features_count_more_from_epoch_to_epoch(epoch, share):
    frozen = teacher("mixer")
    batch = batch_for(frozen, size=2)

    def losses(ramp):
        with seeded(0):
            return make(FCFD, frozen, student("convnext"), ramp=ramp)(replace(batch, epoch=epoch)).losses

    ramped, full = losses(10), losses(1)
    for name in full:
        factor = share if name in ("features", "pooled") else 1.0
        assert ramped[name].item() == pytest.approx(factor * full[name].item(), rel=1e-4)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_all_six_paths_train_the_student_and_every_bridge(pair):
    frozen = teacher(pair[0])
    method = make(FCFD, frozen, student(pair[1]), paths=6)
    found = gradients(method(batch_for(frozen)).total, method.named_parameters())
    assert reached(found) == set(found)
    assert all(grad.isfinite().all() for grad in found.values())


@pytest.mark.parametrize("pair", [("vit", "cnn"), ("cnn", "vit")])
def test_a_step_in_bfloat16_is_finite(pair):
    frozen = teacher(pair[0])
    method, batch = make(FCFD, frozen, student(pair[1]), paths=6), batch_for(frozen, size=2)
    batch.teacher.logits = 1e4 * batch.teacher.logits.sign()
    with torch.autocast("cpu", torch.bfloat16):
        step = method(batch)
    found = gradients(step.total, method.named_parameters())
    assert step.total.isfinite() and all(grad is None or grad.isfinite().all() for grad in found.values())


@pytest.mark.parametrize("pair", [("mixer", "vit"), ("vit", "cnn")])
def test_head_pooling_compares_what_the_classifier_takes(pair):
    frozen = teacher(pair[0])
    method, batch = make(FCFD, frozen, student(pair[1]), pooled="head"), batch_for(frozen)
    taken = method._head_vector(frozen.layouts[3].to_map(batch.teacher.stages[3]))
    normalised = frozen.net.norm(batch.teacher.stages[3])[:, frozen.layouts[3].prefix :]
    assert torch.allclose(taken, normalised.mean(1), atol=1e-5)
    assert method(batch).losses["pooled"].isfinite()


def test_weights_of_0_build_no_bridges():
    built = {}
    for name, config in {
        "no_paths": {"paths": 0},
        "no_features": {"weight": 0.0},
        "no_path_logits": {"path_weight": 0.0},
        "kd": {"paths": 0, "weight": 0.0},
    }.items():
        method = make(FCFD, teacher("vit"), student("vit"), **config)
        built[name] = (len(method.to_teacher), len(method.to_student))
        if name == "no_paths":
            assert not any(n.endswith(".prefix") for n, _ in method.named_parameters())
    assert built == {"no_paths": (4, 0), "no_features": (3, 3), "no_path_logits": (4, 0), "kd": (0, 0)}


def test_refuses_networks_it_cannot_enter():
    open_, closed = model_info("vit_xs", CLASSES, 64), replace(model_info("resnet_s", CLASSES, 64), composable=False)
    for pair in [(open_, closed), (closed, open_)]:
        reason = FCFD.refuses(*pair, FCFD.Config())
        assert "resnet_s cannot be run in parts" in reason and "use a model of the zoo" in reason
    assert FCFD.refuses(open_, open_, FCFD.Config()) is None


@pytest.mark.parametrize(
    "dataset, temperature, ramp", [("cifar100", 4.0, 20), ("imagenet1k", 1.0, 5), ("flowers102", 1.0, 5)]
)
def test_settings_of_the_paper(dataset, temperature, ramp):
    config = resolve_config(FCFD, None, model_info("swin_t", 100), model_info("resnet18", 100), dataset)
    assert (config.temperature, config.ramp, config.weight, config.paths) == (temperature, ramp, 5.0, 2)
