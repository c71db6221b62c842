"""What can be seen of a network while it runs: stage entries, pre-activations, attention."""

import pytest
import torch
from torch.nn import functional as F

from cakdbench.checks.lab import student_model

SMALL = ["resnet_s", "mobilenet_s", "convnext_m", "vit_xs", "swin_xs", "mixer_xs", "resmlp_xs"]
ENDS_IN_RELU = {"resnet_s": (1, 2, 3, 4), "resnet50": (1, 2, 3, 4)}
ENDS_IN_RELU6 = {"mobilenet_s": (4,), "mobilenetv2": (4,), "mobilenetv1": (1, 2, 3, 4)}


def made(name, size=64):
    torch.manual_seed(0)
    return student_model(name, 10, size).eval(), torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_entering_a_stage_and_then_its_blocks_is_the_stage(name):
    model, images = made(name)
    x = model.stem(images)
    for number, feature in enumerate(model(images, stages=True).stages, 1):
        entered = model.downsample(number, x)
        assert entered.shape[1:] == model.entries[number - 1].shape
        assert torch.equal(model.blocks(number, entered), model.stage(number, x))
        assert torch.equal(model.stage(number, x), feature)
        x = feature


def test_only_swin_has_something_between_stage_and_first_block():
    for name in SMALL:
        model, images = made(name)
        x = model.stem(images)
        changes = []
        for number in (1, 2, 3, 4):
            changes.append(model.downsample(number, x) is not x)
            x = model.stage(number, x)
        assert any(changes) == (name == "swin_xs"), name


@pytest.mark.parametrize("name", [*SMALL, "resnet50", "mobilenetv2", "mobilenetv1"])
@torch.no_grad()
def test_activated_preactivations_are_the_stage_features(name):
    model, images = made(name)
    output = model(images, stages=True, preacts=True)
    for number, (before, feature) in enumerate(zip(output.preacts, output.stages), 1):
        if number in ENDS_IN_RELU.get(name, ()):
            assert (before < 0).any() and torch.equal(F.relu(before), feature)
        elif number in ENDS_IN_RELU6.get(name, ()):
            assert (before < 0).any() and torch.equal(F.relu6(before), feature)
        else:
            assert torch.equal(before, feature)
        assert (model.end_norms()[number - 1] is not None) == (before is not feature)


def test_preactivations_carry_gradient_and_leave_the_logits_alone():
    model, images = made("resnet_s")
    plain = model(images)
    output = model(images, preacts=True)
    assert torch.equal(output.logits, plain.logits) and output.stages is None
    output.preacts[3].sum().backward()
    assert model.net.layer4[0].conv2.weight.grad.any() and model.net.fc.weight.grad is None


@pytest.mark.parametrize(("name", "prefix"), [("vit_xs", 1), ("deit_t", 1)])
@torch.no_grad()
def test_a_vits_attention_gives_what_its_last_block_makes_of_it(name, prefix):
    model, images = made(name, 64)
    made_by_block = []
    hook = model.net.blocks[-1].attn.register_forward_hook(lambda module, given, output: made_by_block.append(output))
    q, k, v = model(images, attention=True).attention
    hook.remove()
    assert model.attention.stage == 4 and model.attention.window is None
    assert q.shape[1] == model.attention.heads and q.shape[2] == prefix + 16
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(model.net.blocks[-1].attn.proj(attended), made_by_block[0])


@pytest.mark.parametrize(("name", "size", "grid"), [("swin_xs", 64, 4), ("swin_t", 224, 14), ("swin_t", 160, 10)])
@torch.no_grad()
def test_swins_attention_lies_on_the_grid_whatever_its_windows(name, size, grid):
    model, images = made(name, size)
    blocks, seen = list(model.net.layers[2].blocks), {}
    hooks = [
        block.register_forward_pre_hook(lambda module, given, index=index: seen.update({index: given[0]}))
        for index, block in enumerate(blocks)
    ]
    q, k, v = model(images, attention=True).attention
    for hook in hooks:
        hook.remove()
    last = max(index for index, block in enumerate(blocks) if not any(block.shift_size))
    normed = blocks[last].norm1(seen[last])
    assert normed.shape[1:3] == (grid, grid)
    projected = blocks[last].attn.qkv(normed).flatten(1, 2)
    expected = projected.unflatten(2, (3, model.attention.heads, -1)).permute(2, 0, 3, 1, 4)
    assert model.attention.stage == 3 and model.attention.window == tuple(blocks[last].window_size)
    for found, wanted in zip((q, k, v), expected):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_s", "mixer_xs", "timm:tiny_vit_5m_224"])
@torch.no_grad()
def test_networks_without_such_an_attention_say_so(name):
    model, images = made(name, 224 if name.startswith("timm:") else 64)
    assert model.attention is None and model(images, attention=True).attention is None


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_nothing_stays_behind_on_the_network(name):
    model, images = made(name)
    model(images, stages=True, preacts=True, attention=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
