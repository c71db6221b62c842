"""FOFA: its modules against plain references, the prompted teacher, feedback between steps and over a resume."""

import io
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cakdbench.methods import fofa
from cakdbench.methods.fofa import FOFA
from cakdbench.methods.fofa_parts import (
    MapAligner,
    Projector,
    Prompt,
    RegionAttention,
    SqueezeExcite,
    TokenAligner,
    patches_of,
    sinusoids,
)
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.reviewkd import hcl_loss
from cakdbench.models.staged import Layout, StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from tests.methods.method_lab import CLASSES, MINI, batch_for, gradients, make, reached, student, teacher

SMALL = {"n_q": 16, "dim": 32, "heads": 4}  # for tests that do not need the real size
TEACHERS = [family for family in MINI if family != "mobilenet"]  # its stages begin with 8 channels
few = settings(max_examples=10, deadline=None)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module, seed=0):
    """The module in double precision, no parameter at a special value."""
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.4 * draw(seed + i, *parameter.shape))
    return module.train()


def compare(module, reference, *inputs):
    """Values and gradients, by inputs and parameters, of a module and of a reference on the same parameters."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    found, expected = module(*inputs), reference(*inputs)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)
    weight = draw(99, *found.shape)
    of = [*inputs, *module.parameters()]
    ways = [torch.autograd.grad((y * weight).sum(), of, allow_unused=True) for y in (found, expected)]
    for one, other in zip(*ways):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def normed(x, norm, dims):
    """Batch norm in training by its formula; channels are dimension 1."""
    mean = x.mean(dims, keepdim=True)
    var = (x - mean).square().mean(dims, keepdim=True)
    shape = [1, -1] + [1] * (x.ndim - 2)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


def conv(x, layer):
    """A stride-1 convolution that keeps the size, one output channel at a time."""
    k, groups = layer.kernel_size[0], layer.groups
    height, width = x.shape[2:]
    padded = F.pad(x, (k // 2,) * 4)
    taken, made = x.shape[1] // groups, layer.out_channels // groups
    out = []
    for o in range(layer.out_channels):
        first = o // made * taken
        total = layer.bias[o] if layer.bias is not None else 0.0
        for dy in range(k):
            for dx in range(k):
                window = padded[:, first : first + taken, dy : dy + height, dx : dx + width]
                total = total + (window * layer.weight[o, :, dy, dx].view(1, -1, 1, 1)).sum(1)
        out.append(total)
    return torch.stack(out, 1)


def nearest(x, grid):
    rows = [y * x.shape[2] // grid[0] for y in range(grid[0])]
    columns = [z * x.shape[3] // grid[1] for z in range(grid[1])]
    return x[:, :, rows][:, :, :, columns]


# modules


@pytest.mark.parametrize("side, kernel, size", [(56, 14, 56), (28, 7, 28), (14, 4, 16), (7, 2, 8), (2, 1, 4)])
def test_projectors_cut_the_stages_as_released(side, kernel, size):
    projector = Projector(Layout(8, (side, side), False), 4, 16)
    assert projector.embed.kernel_size == projector.embed.stride == (kernel, kernel)
    assert projector.size == (size, size)
    assert projector(torch.randn(2, 8, side, side)).shape == (2, 16, 16)


@pytest.mark.parametrize("grid", [(3, 3), (6, 6), (2, 5)])
def test_projector_embeds_one_region_a_token(grid):
    projector = randomised(Projector(Layout(3, grid, False), 2, 5))

    def reference(x):
        x = nearest(x, projector.size)
        (kh, kw), weight = projector.embed.kernel_size, projector.embed.weight
        tokens = []
        for row in range(2):
            for column in range(2):
                patch = x[:, :, row * kh : (row + 1) * kh, column * kw : (column + 1) * kw]
                tokens.append((patch[:, None] * weight).sum((2, 3, 4)) + projector.embed.bias)
        return torch.stack(tokens, 1)

    compare(projector, reference, draw(0, 2, 3, *grid))


def attention_reference(module, x, position):
    """One head, one sample and one query at a time; `position(sample, token)` is a vector."""
    mean = x.mean(2, keepdim=True)
    x = (x - mean) / ((x - mean).square().mean(2, keepdim=True) + module.norm.eps).sqrt()
    x = x * module.norm.weight + module.norm.bias
    width = x.shape[2]
    kv = x @ module.to_kv.weight.T + module.to_kv.bias
    query, key, value = x @ module.to_q.weight.T + module.to_q.bias, kv[..., :width], kv[..., width:]
    places = torch.stack([torch.stack([position(b, n) for n in range(x.shape[1])]) for b in range(len(x))])
    query, key, size = query + places, key + places, width // module.heads
    out = torch.empty_like(x)
    for b in range(len(x)):
        for head in range(module.heads):
            part = slice(head * size, (head + 1) * size)
            for n in range(x.shape[1]):
                scores = (key[b, :, part] * query[b, n, part]).sum(1) / math.sqrt(size)
                weights = scores.exp() / scores.exp().sum()
                out[b, n, part] = (weights[:, None] * value[b, :, part]).sum(0)
    return out


def encoding(index, dim):
    rates = [1 / 10000 ** (2 * (i // 2) / dim) for i in range(dim)]
    turn = [math.cos if i % 2 else math.sin for i in range(dim)]
    return torch.tensor([f(index * rate) for f, rate in zip(turn, rates)], dtype=torch.float64)


def test_sinusoids_are_the_transformers():
    found = sinusoids(7, 12)
    assert torch.allclose(found.double(), torch.stack([encoding(i, 12) for i in range(7)]), atol=1e-6)


@pytest.mark.parametrize("official", [False, True])
def test_attention_is_the_formula(official, monkeypatch):
    monkeypatch.setattr(
        "cakdbench.methods.fofa_parts.sinusoids",
        lambda count, dim, device=None: torch.stack([encoding(i, dim) for i in range(count)]),
    )
    layouts = [Layout(4, (2, 2), False)] * 4
    module = randomised(RegionAttention(layouts, 16, 8, 2, official=official))
    module.projectors.requires_grad_(False)

    def reference(x):
        return attention_reference(module, x, lambda b, n: encoding(b if official else n, 8))

    x = draw(3, 3, 16, 8).requires_grad_()
    found, expected = module.mix(x), reference(x)
    assert torch.allclose(found, expected, rtol=1e-9)
    own = [p for name, p in module.named_parameters() if not name.startswith("projectors")]
    weight = draw(4, *found.shape)
    ways = [torch.autograd.grad((y * weight).sum(), [x, *own]) for y in (found, expected)]
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-10) for one, other in zip(*ways))


@pytest.mark.parametrize("official", [False, True])
def test_the_attention_that_is_shown_is_the_one_that_mixes(official):
    method = make(FOFA, teacher("cnn"), student("vit"), compat="official" if official else "fixed", **SMALL).eval()
    images = batch_for(size=3).images
    with torch.no_grad():
        shown = method.attended(images)
        tokens = torch.cat(method.raa.tokens(method.student(images, stages=True).stages), 1)
        value = method.raa.to_kv(method.raa.norm(tokens)).chunk(2, 2)[1].unflatten(2, (4, -1)).transpose(1, 2)
        mixed = torch.cat(method.raa(method.student(images, stages=True).stages), 1)
    assert shown.weights.shape == (3, 4, 16, 16) and shown.grids == {f"stage {i}": (2, 2) for i in (1, 2, 3, 4)}
    assert torch.allclose((shown.weights @ value).transpose(1, 2).flatten(2), mixed, atol=1e-5)
    for off in ({"raa": False}, {"beta": 0.0}):
        assert make(FOFA, teacher("cnn"), student("vit"), **SMALL, **off).attended(images) is None


@pytest.mark.parametrize("family", MINI)
@pytest.mark.parametrize("n_q", [36, 144])
def test_every_student_gives_a_quarter_of_the_regions_per_stage(family, n_q):
    model = student(family)
    features = model(batch_for(size=2).images, stages=True).stages
    found = RegionAttention(model.layouts, n_q, 64)(features)
    assert [tuple(x.shape) for x in found] == [(2, n_q // 4, 64)] * 4


@given(st.permutations(range(4)), st.integers(0, 100))
@few
def test_samples_do_not_see_each_other(order, seed):
    layouts = [Layout(4, (4, 4), False), Layout(6, (2, 2), True, 1)] * 2
    features = [draw(seed + i, 4, *layout.shape) for i, layout in enumerate(layouts)]
    module = randomised(RegionAttention(layouts, 16, 8, 2))
    straight, permuted = module(features), module([x[list(order)] for x in features])
    assert all(torch.allclose(a[list(order)], b) for a, b in zip(straight, permuted))


def test_stages_see_each_other_only_through_the_attention():
    layouts = [Layout(4, (4, 4), False)] * 4
    features = [draw(i, 2, 4, 4, 4) for i in range(4)]
    changed = [features[0] + 1, *features[1:]]
    for attend in (True, False):
        module = randomised(RegionAttention(layouts, 16, 8, 2, attend=attend))
        assert torch.allclose(module(features)[3], module(changed)[3]) is not attend


def test_token_aligner_is_its_four_layers():
    module = randomised(TokenAligner(4, 6, Layout(5, (2, 3), True, 1)))

    def reference(x):
        x = normed(x, module.widen[0], (0, 2)) @ module.widen[1].weight.T + module.widen[1].bias
        x = normed(x.transpose(1, 2), module.spread[0], (0, 2))
        x = x @ module.spread[1].weight.T + module.spread[1].bias
        return torch.stack([x[:, :, :3], x[:, :, 3:]], 2)

    compare(module, reference, draw(0, 3, 4, 6))


@pytest.mark.parametrize("shape, grid", [((4, 6), (5, 5)), ((4, 6), (1, 2)), ((6, 3, 4), (2, 7))])
def test_map_aligner_resizes_normalises_and_projects(shape, grid):
    module = randomised(MapAligner(6, Layout(5, grid, False)))

    def reference(x):
        x = torch.stack([x[:, :2], x[:, 2:]], 1).permute(0, 3, 1, 2) if x.ndim == 3 else x
        return conv(normed(nearest(x, grid), module.norm, (0, 2, 3)), module.conv)

    compare(module, reference, draw(0, 3, *shape))


def gated(x, layer, official):
    mean = x.mean((2, 3), keepdim=True)
    gate = 1 / (1 + (-conv(conv(mean, layer.squeeze).clamp(min=0), layer.excite)).exp())
    return gate if official else gate * x


@pytest.mark.parametrize("official", [False, True])
def test_squeeze_and_excitation_multiplies_unless_official(official):
    module = randomised(SqueezeExcite(32, official))
    compare(module, lambda x: gated(x, module, official), draw(0, 2, 32, 3, 4))


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("fed", [False, True])
def test_prompt_is_its_blocks(official, fed):
    entry, layout = Layout(16, (4, 4), False), Layout(20, (2, 2), False)
    module = randomised(Prompt(entry, layout, True, official))

    def block(x, layers):
        for layer in layers:
            x = gated(x, layer, official) if isinstance(layer, SqueezeExcite) else conv(x, layer)
        return x

    def reference(x, feedback=None):
        fused = x
        if feedback is not None:
            fit = conv(normed(nearest(feedback, (4, 4)), module.fit.norm, (0, 2, 3)), module.fit.conv)
            fused = block(torch.cat([x, fit], 1), module.fuse)
        return x + module.scale * block(fused, module.prompt)

    compare(module, reference, draw(0, 2, 16, 4, 4), *([draw(1, 2, 20, 2, 2)] if fed else []))


def test_prompt_blocks_are_the_papers():
    prompt = Prompt(Layout(32, (4, 4), True), Layout(32, (4, 4), True))
    fuse, block = (
        [(m.kernel_size[0], m.groups, m.in_channels) for m in layers if isinstance(m, torch.nn.Conv2d)]
        for layers in (prompt.fuse, prompt.prompt)
    )
    assert fuse == [(1, 1, 64), (5, 1, 32), (1, 1, 32), (1, 1, 32)]
    assert block == [(1, 4, 32), (5, 32, 32), (1, 1, 32), (1, 4, 32)]
    assert isinstance(prompt.fit, torch.nn.Identity) and prompt.scale.item() == 0


def test_official_prompts_are_one_number_a_channel():
    layout, x = Layout(16, (4, 4), False), torch.randn(2, 16, 4, 4)
    for official in (True, False):
        prompt = Prompt(layout, layout, official=official)
        with torch.no_grad():
            prompt.scale.fill_(1.0)
            added = prompt(x, torch.randn(2, 16, 4, 4)) - x
        spread = (added - added.mean((2, 3), keepdim=True)).abs().max()
        assert (spread < 1e-5) == official


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_prompt_at_scale_0_keeps_tokens_and_scrambles_them_if_official(prefix):
    layout = Layout(16, (2, 3), True, prefix)
    x = draw(0, 2, prefix + 6, 16)
    assert torch.equal(Prompt(layout, layout).double()(x), x)
    found = Prompt(layout, layout, official=True).double()(x)
    for b in range(2):
        flat = [x[b, n, d].item() for d in range(16) for n in range(6)]
        expected = [flat[16 * n : 16 * n + 16] for n in range(6)]
        assert found[b, :6].tolist() == expected
    assert torch.equal(found[:, 6:], x[:, 6:])


def test_prefix_is_taken_from_the_front_and_officially_from_the_back():
    layout = Layout(3, (2, 2), True, 1)
    x = torch.arange(15.0).view(1, 5, 3)
    assert patches_of(x, layout)[0, 0].flatten().tolist() == [3, 6, 9, 12]
    assert patches_of(x, layout, official=True)[0, 0].flatten().tolist() == [0, 3, 6, 9]
    plain = Layout(3, (1, 5), True)
    assert torch.equal(patches_of(x, plain, official=True), patches_of(x, plain))


@given(st.integers(1, 9), st.floats(-3, 3), st.integers(0, 100))
@few
def test_features_off_by_a_constant_cost_its_square(side, shift, seed):
    a = draw(seed, 2, 3, side, side)
    assert hcl_loss(a + shift, a).item() == pytest.approx(shift**2, abs=1e-12)
    assert hcl_loss(a, a).item() == 0


@pytest.mark.parametrize("value", [0.0, 1e4])
@pytest.mark.parametrize("bf16", [False, True])
def test_modules_take_constant_features(value, bf16):
    maps, tokens = Layout(16, (4, 4), False), Layout(16, (4, 4), True, 1)
    features = [torch.full((2, *layout.shape), value, requires_grad=True) for layout in (maps, tokens, maps, tokens)]
    regions = RegionAttention([maps, tokens, maps, tokens], 16, 32, 4)
    aligners = TokenAligner(4, 32, tokens), MapAligner(32, maps)
    prompts = [Prompt(layout, layout) for layout in (maps, tokens)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = regions(features)
        losses = [hcl_loss(align(x), torch.zeros(2, 16, 4, 4)) for align in aligners for x in found]
        for prompt, x in zip(prompts, features):
            torch.nn.init.ones_(prompt.scale)
            prompted = patches_of(prompt(x, x.new_zeros(2, 16, 4, 4)), prompt.entry)
            losses.append(hcl_loss(prompted, torch.zeros(2, 16, 4, 4)))
    total = sum(losses)
    given = torch.autograd.grad(total, features)
    assert total.dtype == torch.float32 and total.isfinite()
    assert all(g.isfinite().all() for g in given)


# the method


def scaled(method, value=0.3):
    """The method with prompts that do something."""
    with torch.no_grad():
        for prompt in method.prompts.values():
            prompt.scale.fill_(value)
    return method


def lean(batch):
    """The batch with nothing of the teacher but what the default Config needs."""
    batch.teacher = replace(batch.teacher, pooled=None, stages=None, preacts=None, attention=None)
    return batch


def numbers(step):
    return {name: loss.item() for name, loss in step.losses.items()}


@pytest.mark.parametrize(
    "pair", [*((t, "cnn") for t in TEACHERS), *(("vit", s) for s in MINI if s != "cnn"), ("cnn", "vit")]
)
def test_two_steps_train_the_student_and_every_extra_module(pair):
    frozen = teacher(pair[0])
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    size = {} if "vit" in pair else SMALL
    method, batch = scaled(make(FOFA, frozen, student(pair[1]), **size)), lean(batch_for(frozen))
    for fed in (False, True):
        method.zero_grad()
        step = method(batch)
        step.total.backward()
        method.step_end()
        assert list(step.losses) == ["label", "kd", "fofa", "fofa_prompt"]
        assert step.total.isfinite() and step.logits.shape == (4, CLASSES)
        missing = {name for name, p in method.named_parameters() if p.grad is None}
        assert missing == set() if fed else all(".fuse." in name or ".fit." in name for name in missing)
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert all(p.grad is None for p in frozen.parameters()) and not frozen.training
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


@pytest.mark.parametrize("family", TEACHERS)
def test_prompts_at_scale_0_leave_the_teacher_as_it_is(family):
    frozen = teacher(family)
    method, batch = make(FOFA, frozen, student("cnn"), **SMALL), batch_for(frozen)
    for _ in range(2):
        found = method.prompted_teacher(batch)
        assert torch.allclose(found.logits, batch.teacher.logits, atol=1e-5)
        for one, other in zip(found.stages, batch.teacher.stages):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        assert abs(method(batch).losses["fofa_prompt"].item()) < 1e-6
        method.step_end()


@pytest.mark.parametrize("family, same", [("vit", False), ("mixer", False), ("swin", False), ("convnext", True)])
def test_official_prompts_scramble_token_teachers_alone(family, same):
    frozen = teacher(family)
    method, batch = make(FOFA, frozen, student("cnn"), compat="official", **SMALL), batch_for(frozen)
    found = method.prompted_teacher(batch)
    assert torch.allclose(found.logits, batch.teacher.logits, atol=1e-4) is same


@pytest.mark.parametrize("official", [False, True])
def test_official_takes_the_students_last_token_for_its_class_token(official):
    compat = "official" if official else "fixed"
    method = make(FOFA, teacher("cnn"), student("vit"), compat=compat, **SMALL)
    features = list(method.student(batch_for().images, stages=True).stages)
    ends = []
    for index in (0, -1):
        changed = [x.clone() for x in features]
        changed[1][:, index] += 1
        same = zip(method.raa(features), method.raa(changed))
        ends.append(all(torch.equal(a, b) for a, b in same))
    assert ends == ([False, True] if official else [True, False])


@pytest.mark.parametrize("pair", [("cnn", "vit"), ("swin", "cnn"), ("vit", "mixer")])
@pytest.mark.parametrize("official", [False, True])
def test_losses_are_the_weighted_formula_with_the_last_steps_difference(pair, official):
    frozen = teacher(pair[0])
    weights = {"alpha": 0.5, "beta": 2.0, "gamma": 3.0, "temperature": 2.0}
    compat = "official" if official else "fixed"
    method = scaled(make(FOFA, frozen, student(pair[1]), **weights, **SMALL, compat=compat))
    batch, feedback = batch_for(frozen), [None] * 4
    for _ in range(3):
        given = method.student(batch.images, stages=True)
        aligned = [align(x) for align, x in zip(method.aligners, method.raa(given.stages))]
        x, difference, apart = frozen.stem(batch.images), [], 0.0
        for i in range(4):
            x = method.prompts[str(i + 1)](frozen.downsample(i + 1, x), feedback[i])
            x = frozen.blocks(i + 1, x)
            layout = frozen.layouts[i]
            tokens = (x[:, : len(x[0]) - layout.prefix] if official else x[:, layout.prefix :]) if layout.tokens else x
            target = tokens.transpose(1, 2).unflatten(2, layout.grid) if layout.tokens else tokens
            apart = apart + hcl_loss(aligned[i], target)
            difference.append((aligned[i] - target).detach())
        expected = {
            "label": batch.label_loss(given.logits),
            "kd": 0.5 * kd_loss(given.logits, batch.teacher.logits, 2.0),
            "fofa": 2.0 * apart,
            "fofa_prompt": 3.0 * kd_loss(frozen.head(x).logits, batch.teacher.logits, 2.0),
        }
        assert numbers(method(batch)) == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-4)
        method.step_end()
        feedback = difference


def test_at_scale_0_only_the_scales_learn():
    frozen = teacher("vit")
    method, batch = make(FOFA, frozen, student("cnn"), **SMALL), batch_for(frozen)
    method(batch)
    method.step_end()
    losses = method(batch).losses
    prompts = [(name, p) for name, p in method.named_parameters() if name.startswith("prompts")]
    scales = {name for name, _ in prompts if name.endswith("scale")}
    assert reached(gradients(losses["fofa"], prompts)) == scales and len(scales) == 4
    near = gradients(losses["fofa_prompt"], prompts)
    assert all(near[name].abs() < 1e-6 for name in scales)
    assert not reached(near) - scales


def test_at_other_scales_both_losses_reach_the_prompts():
    frozen = teacher("vit")
    method, batch = scaled(make(FOFA, frozen, student("cnn"), **SMALL)), batch_for(frozen)
    prompts = [(name, p) for name, p in method.named_parameters() if name.startswith("prompts")]
    blocks = {f"prompts.{i}.{part}" for i in (1, 2, 3, 4) for part in ("fuse.1.weight", "prompt.1.weight", "scale")}
    for fed in (False, True):
        losses = method(batch).losses
        for name in ("fofa", "fofa_prompt"):
            found = reached(gradients(losses[name], prompts))
            assert {b for b in blocks if fed or ".fuse." not in b} <= found
            assert fed or not any(".fuse." in each for each in found)
        method.step_end()


def test_the_features_reach_the_student_and_the_plain_teacher_does_not_pull_the_prompts():
    frozen = teacher("vit")
    method, batch = scaled(make(FOFA, frozen, student("cnn"), **SMALL)), batch_for(frozen)
    losses = method(batch).losses
    everything = list(method.named_parameters())
    assert any(name.startswith("student.") for name in reached(gradients(losses["fofa"], everything)))
    kd, near = (reached(gradients(losses[name], everything)) for name in ("kd", "fofa_prompt"))
    assert all(name.startswith("student.") for name in kd)
    assert all(name.startswith("prompts.") for name in near)


def test_feedback_waits_for_the_end_of_the_step_and_has_no_gradient():
    frozen = teacher("swin")
    method, batch = scaled(make(FOFA, frozen, student("cnn"), **SMALL)), batch_for(frozen)
    first, again = numbers(method(batch)), numbers(method(batch))
    assert first == again
    method.step_end()
    kept = method.get_extra_state()["feedback"]
    assert list(kept) == [0] and len(kept[0]) == 4
    assert not any(x.requires_grad for x in kept[0])
    shapes = [(4, layout.channels, *layout.grid) for layout in frozen.layouts]
    assert [tuple(x.shape) for x in kept[0]] == shapes
    assert numbers(method(batch))["fofa"] != first["fofa"]


def test_every_place_has_its_own_feedback():
    frozen = teacher("vit")
    both, alone = (scaled(make(FOFA, frozen, student("cnn"), **SMALL)) for _ in range(2))
    batches = [replace(batch_for(frozen), micro_batch=number) for number in (0, 1)]
    batches[1].images = batches[1].images.flip(0) * 2
    for batch in batches:
        both(batch)
    both.step_end()
    assert sorted(both.get_extra_state()["feedback"]) == [0, 1]
    for batch in batches:
        alone(batch)
        alone.step_end()
        assert numbers(both(batch)) == numbers(alone(batch))


def test_before_a_save_every_process_knows_all_feedback(monkeypatch):
    frozen = teacher("vit")
    batches = [replace(batch_for(frozen), micro_batch=number) for number in range(4)]
    for batch in batches:
        batch.images = batch.images + batch.micro_batch
    alone = make(FOFA, frozen, student("cnn"), **SMALL)
    for batch in batches:
        alone(batch)
    alone.step_end()
    single = alone.get_extra_state()["feedback"]
    # process r of two has the places r and r + 2; what it gathers is its own and what the other computed
    for rank in (0, 1):
        shared = make(FOFA, frozen, student("cnn"), **SMALL)
        own = [batches[rank], batches[rank + 2]]
        for batch in own:
            shared(batch)
        pending = iter([single[batch.micro_batch - rank + other] for batch in own for other in (0, 1)])
        sent = iter([(a, b) for first in own for a, b in zip(*(next(pending) for _ in (0, 1)))])

        def gathered(x, sent=sent):
            parts = next(sent)
            assert any(torch.equal(x, part) for part in parts)
            return torch.cat(parts)

        monkeypatch.setattr(fofa, "all_gather", gathered)
        shared.step_end()
        shared.before_save()
        monkeypatch.undo()
        found = shared.get_extra_state()["feedback"]
        assert sorted(found) == [0, 1, 2, 3]
        assert all(torch.equal(a, b) for place in found for a, b in zip(found[place], single[place]))


def test_another_batch_size_has_no_feedback_for_that_step():
    frozen = teacher("cnn")
    method = scaled(make(FOFA, frozen, student("vit"), **SMALL))
    method(batch_for(frozen, size=4))
    method.step_end()
    fresh = scaled(make(FOFA, frozen, student("vit"), **SMALL))
    assert numbers(method(batch_for(frozen, size=3))) == numbers(fresh(batch_for(frozen, size=3)))
    method.step_end()
    assert numbers(method(batch_for(frozen, size=3))) != numbers(fresh(batch_for(frozen, size=3)))


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_resumed_method_goes_on_as_the_undisturbed_one(bf16):
    frozen = teacher("vit" if bf16 else "convnext")  # bf16 maps are slow on a CPU
    going = scaled(make(FOFA, frozen, student("vit"), **SMALL))
    batches = [replace(batch_for(frozen, size=2), micro_batch=number) for number in (0, 1)]

    def step(method):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = [numbers(method(batch)) for batch in batches]
        method.step_end()
        return found

    step(going)
    saved = through_a_file(going.state_dict())
    resumed = make(FOFA, frozen, student("vit"), **SMALL)
    resumed.load_state_dict(saved)
    saved["_extra_state"]["feedback"].clear()
    forgetful = make(FOFA, frozen, student("vit"), **SMALL)
    forgetful.load_state_dict(saved)
    second = step(going)
    assert step(resumed) == second != step(forgetful)
    assert step(resumed) == step(going)


def test_restored_feedback_moves_to_the_device_of_the_batch():
    frozen = teacher("cnn")
    method, batch = make(FOFA, frozen, student("vit"), **SMALL), batch_for(frozen, size=2)
    method(batch)
    method.step_end()
    with torch.device("meta"):  # where tensors of the CPU cannot be mixed in
        moved = make(FOFA, frozen.to("meta"), student("vit"), **SMALL).to("meta")
    moved.set_extra_state(through_a_file(method.get_extra_state()))
    assert {x.device.type for x in moved.get_extra_state()["feedback"][0]} == {"cpu"}
    found = moved.prompted_teacher(replace(batch, images=batch.images.to("meta")))
    assert found.logits.device.type == "meta"


def test_a_fresh_method_saves_and_loads():
    frozen = teacher("cnn")
    for config in ({}, {"prompt_stages": ()}, {"beta": 0.0}):
        state = through_a_file(make(FOFA, frozen, student("vit"), **SMALL, **config).state_dict())
        make(FOFA, frozen, student("vit"), **SMALL, **config).load_state_dict(state)


@pytest.mark.parametrize("reset", [False, True])
def test_feedback_is_forgotten_at_an_epochs_start_if_asked_but_not_by_a_resume(reset):
    frozen = teacher("cnn")
    method = make(FOFA, frozen, student("vit"), reset_feedback=reset, **SMALL)
    method.epoch_start(3)
    method(replace(batch_for(frozen), epoch=3))
    method.step_end()
    resumed = make(FOFA, frozen, student("vit"), reset_feedback=reset, **SMALL)
    resumed.load_state_dict(through_a_file(method.state_dict()))
    resumed.epoch_start(3)
    assert list(resumed.get_extra_state()["feedback"]) == [0]
    resumed.epoch_start(4)
    assert list(resumed.get_extra_state()["feedback"]) == ([] if reset else [0])


@pytest.mark.parametrize(
    "config, names, needs",
    [
        ({"alpha": 0.0}, {"label", "fofa", "fofa_prompt"}, {"logits", "model"}),
        ({"gamma": 0.0}, {"label", "kd", "fofa"}, {"logits", "model"}),
        ({"alpha": 0.0, "gamma": 0.0}, {"label", "fofa"}, {"model"}),
        ({"beta": 0.0}, {"label", "kd"}, {"logits"}),
        ({"prompt_stages": ()}, {"label", "kd", "fofa"}, {"logits", "stages"}),
        ({}, {"label", "kd", "fofa", "fofa_prompt"}, {"logits", "model"}),
    ],
)
def test_what_has_no_weight_is_neither_built_nor_read(config, names, needs):
    frozen = teacher("cnn")
    method, batch = make(FOFA, frozen, student("vit"), **SMALL, **config), batch_for(frozen)
    assert method.needs == needs <= FOFA.needs
    unread = {part: None for part in ("logits", "stages") if part not in needs}
    batch.teacher = replace(batch.teacher, pooled=None, preacts=None, attention=None, **unread)
    method(batch)
    method.step_end()
    step = method(batch)
    assert set(step.losses) == names
    assert (method.extra_parameters() == 0) == (not config.get("beta", 1.0))


def test_without_feedback_nothing_is_kept_and_no_fusion_built():
    frozen = teacher("cnn")
    method, batch = scaled(make(FOFA, frozen, student("vit"), feedback=False, **SMALL)), batch_for(frozen)
    first = numbers(method(batch))
    method.step_end()
    assert numbers(method(batch)) == first
    assert method.get_extra_state()["feedback"] == {}
    assert not [name for name, _ in method.named_parameters() if ".fuse." in name or ".fit." in name]


@pytest.mark.parametrize("stages", [(), (3,), (4, 1)])
def test_only_the_stages_asked_for_are_prompted(stages):
    frozen = teacher("vit")
    method, batch = make(FOFA, frozen, student("cnn"), prompt_stages=stages, **SMALL), batch_for(frozen)
    assert sorted(method.prompts) == sorted(map(str, stages))
    if not stages:
        return
    plain = method.prompted_teacher(batch).stages
    changed = scaled(method, 1.0).prompted_teacher(batch).stages
    first = min(stages)
    assert [torch.equal(a, b) for a, b in zip(plain, changed)] == [i < first for i in (1, 2, 3, 4)]


def prompt_parameters(c, feedback_width=None, fits=False):
    excite = 2 * c * (c // 16) + c // 16 + c
    prompt = 2 * (c * c // 4 + c) + 25 * c + c + c * c + c + excite + 1
    fuse = 2 * c * c + c + 25 * c * c + c + 2 * (c * c + c) + excite
    fit = 2 * feedback_width + feedback_width * c if fits else 0
    return prompt + fuse + fit


def test_extra_parameters_have_their_closed_form():
    with torch.device("meta"):
        found = FOFA(StagedModel("resnet18", 100), StagedModel("vit_s", 100), FOFA.Config()).extra_parameters()
    maps = make(FOFA, teacher("convnext"), student("vit")).extra_parameters()
    attention = 2 * 512 + 512 * 512 + 512 + 512 * 1024 + 1024
    projectors = sum(512 * (c * k * k + 1) for c, k in [(64, 14), (128, 7), (256, 4), (512, 2)])
    token_aligner = 2 * 16 + 512 * 384 + 384 + 2 * 384 + 16 * 196 + 196
    assert found == attention + projectors + 4 * token_aligner + 4 * prompt_parameters(384)
    projectors = 4 * 512 * (64 * 1 * 1 + 1)
    map_aligners = sum(2 * 512 + 512 * c for c in (32, 64, 128, 224))
    places = [(32, 32, False), (32, 64, True), (64, 128, True), (128, 224, True)]
    assert maps == attention + projectors + map_aligners + sum(prompt_parameters(*place) for place in places)


def test_projectors_and_aligners_start_as_released_and_scales_at_0():
    method = make(FOFA, teacher("cnn"), student("cnn"))
    weight = method.raa.projectors[1].embed.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (512 * weight[0, 0].numel())), rel=0.05)
    assert not any(p.embed.bias.any() for p in method.raa.projectors)
    tokens = make(FOFA, teacher("vit"), student("cnn")).aligners[0]
    assert tokens.widen[1].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(not prompt.scale.any() for prompt in method.prompts.values())


@pytest.mark.parametrize("pair", [("vit", "mixer"), ("cnn", "vit")])
def test_bf16_gives_finite_gradients_and_nearly_the_losses_of_float32(pair):
    frozen = teacher(pair[0])
    method, batch = scaled(make(FOFA, frozen, student(pair[1]), **SMALL)), batch_for(frozen, size=2)
    exact = numbers(method(batch))
    with torch.autocast("cpu", torch.bfloat16):
        step = method(batch)
    assert all(loss.dtype == torch.float32 for name, loss in step.losses.items() if name != "label")
    assert numbers(step)["fofa"] == pytest.approx(exact["fofa"], rel=2e-2)
    for _ in range(2):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            step = method(batch)
        step.total.backward()
        method.step_end()
        assert step.total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["large", "constant", "identical"])
def test_teacher_logits_of_any_size(kind, bf16):
    frozen = teacher("vit")
    method, batch = scaled(make(FOFA, frozen, student("vit"), **SMALL)), batch_for(frozen, size=2)
    logits = {
        "large": torch.linspace(-1e4, 1e4, 2 * CLASSES).view(2, CLASSES),
        "constant": torch.full((2, CLASSES), 7.0),
        "identical": torch.arange(float(CLASSES)).expand(2, -1),
    }[kind]
    batch.teacher = replace(batch.teacher, logits=logits)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        step = method(batch)
    step.total.backward()
    assert all(loss.isfinite() for loss in step.losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


# settings and refusals


@pytest.mark.parametrize("n_q, near", [(80, "64 and 100"), (1, "4 and 16"), (0, "4 and 16"), (-4, "4 and 16")])
def test_regions_that_are_no_square_are_refused_with_the_nearest_that_are(n_q, near):
    with pytest.raises(ValueError, match=rf"4 \* k\^2, and {n_q} is not: the nearest are {near}"):
        FOFA.Config(n_q=n_q)


@given(st.integers(1, 2000))
@few
def test_exactly_four_times_a_square_is_taken(n_q):
    square = n_q % 4 == 0 and round(math.sqrt(n_q // 4)) ** 2 == n_q // 4
    try:
        FOFA.Config(n_q=n_q)
        assert square
    except ValueError as error:
        below, above = (int(n) for n in str(error).split("nearest are ")[1].split(" and "))
        assert not square and (below < n_q < above or n_q < 4)
        FOFA.Config(n_q=below), FOFA.Config(n_q=above)


def test_regions_of_each_dataset_and_of_the_released_commands():
    infos = model_info("swin_t", 100), model_info("resnet18", 100)
    found = {name: resolve_config(FOFA, None, *infos, name).n_q for name in ("cifar100", "imagenet1k")}
    assert found == {"cifar100": 64, "imagenet1k": 144}
    official = resolve_config(FOFA, "official", *infos, "imagenet1k")
    assert (official.n_q, official.compat) == (64, "official")


@pytest.mark.parametrize("width", [8, 12, 18, 66])
def test_refuses_widths_a_prompt_cannot_take(width):
    frozen, model = model_info("vit_xs", 10, 64), model_info("resnet_s", 10, 64)
    entries = (*frozen.entries[:1], replace(frozen.entries[1], channels=width), *frozen.entries[2:])
    odd = replace(frozen, entries=entries)
    reason = FOFA.refuses(odd, model, FOFA.Config())
    assert (
        f"before stage 2 of vit_xs needs a width there that is a multiple of 4 and at least 16, not {width}" in reason
    )
    assert "leave 2 out of fofa.prompt_stages" in reason
    assert FOFA.refuses(odd, model, FOFA.Config(prompt_stages=(1, 3, 4))) is None
    assert FOFA.refuses(frozen, model, FOFA.Config()) is None


def test_refuses_to_prompt_a_teacher_that_cannot_be_entered():
    frozen = replace(model_info("vit_xs", 10, 64), name="strange", composable=False, entries=None)
    model = model_info("resnet_s", 10, 64)
    reason = FOFA.refuses(frozen, model, FOFA.Config())
    assert "fofa prompts strange before its stages" in reason and "fofa.prompt_stages=()" in reason
    for config in ({"prompt_stages": ()}, {"beta": 0.0}):
        assert FOFA.refuses(frozen, model, FOFA.Config(**config)) is None
    assert FOFA.refuses(model, frozen, FOFA.Config()) is None


def test_a_narrow_teacher_trains_with_the_stages_the_refusal_leaves():
    frozen = teacher("mobilenet")
    config = FOFA.Config(**SMALL)
    reason = FOFA.refuses(frozen.info, model_info("resnet_s", CLASSES, 64), config)
    assert "leave 1 out of fofa.prompt_stages" in reason
    stages = tuple(
        i for i in (1, 2, 3, 4) if FOFA.refuses(frozen.info, frozen.info, replace(config, prompt_stages=(i,))) is None
    )
    method, batch = make(FOFA, frozen, student("cnn"), prompt_stages=stages, **SMALL), batch_for(frozen)
    assert stages and method(batch).total.isfinite()
