"""Maps of features and of attention, against timm's own."""

import pytest
import torch
from torch import nn

from cakdbench.analysis import attention_flow, attention_maps, feature_maps, received_maps
from cakdbench.method import Attention
from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import UsageError


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet_m", "vit_xs", "swin_m", "mixer_xs"])
def test_a_feature_map_is_the_mean_of_absolute_channels(name, images):
    model = StagedModel(name, 10, 64).eval()
    maps = feature_maps(model, images)
    with torch.no_grad():
        stages = model(images, stages=True).stages
    for layout, stage, found in zip(model.layouts, stages, maps.values()):
        assert torch.allclose(found, layout.to_map(stage).abs().mean(1, keepdim=True))
    halves = feature_maps(model, images, groups=2)["stage 4"]
    assert torch.allclose(halves.mean(1, keepdim=True), maps["stage 4"], atol=1e-6)


def test_attention_of_a_vit_is_that_of_its_class_token(images):
    model = StagedModel("vit_xs", 10, 64).eval()
    attention = model.net.blocks[-1].attn
    attention.fused_attn = False
    seen = []
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = attention_maps(model, images)
    assert torch.allclose(found.flatten(1), seen[0].mean(1)[:, 0, 1:], atol=1e-6)


def test_without_a_class_token_the_patches_look_and_no_register(images):
    name = "timm:vit_medium_patch16_reg4_gap_256"
    model = StagedModel(name, 10, 64).eval()
    attention = model.net.blocks[-1].attn
    attention.fused_attn = False
    seen = []
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = attention_maps(model, images)
    assert model.layouts[3].prefix == 4
    assert torch.allclose(found.flatten(1), seen[0].mean(1)[:, 4:, 4:].mean(1), atol=1e-6)


def test_attention_of_swin_stays_in_its_windows(images):
    """Each position of a window gives a whole of attention away, so that a window receives its share of the grid."""
    model = StagedModel("swin_m", 10, 64).eval()
    down, across = model.attention.window
    found = attention_maps(model, images)
    grid = found.shape[1:]
    assert found.sum((1, 2)) == pytest.approx(1, abs=1e-5)
    window = found[:, :down, :across].sum((1, 2))
    share = min(down, grid[0]) * min(across, grid[1]) / (grid[0] * grid[1])
    assert window == pytest.approx(share, abs=1e-5)


def test_attention_among_places_is_shown_by_who_receives_it_and_by_who_looks_where():
    """Two features of 2 x 2 and 1 x 3 places: the first looks at its own first place, the second at all alike."""
    weights = torch.zeros(1, 2, 7, 7)
    weights[:, :, :4, 0] = 1
    weights[:, :, 4:] = 1 / 7
    attention = Attention(weights, {"a": (2, 2), "b": (1, 3)})
    maps = received_maps(attention)
    assert maps["a"].shape == (1, 2, 2) and maps["b"].shape == (1, 1, 3)
    assert maps["a"][0, 0, 0] == pytest.approx((4 + 3 / 7) / 7) and maps["b"].flatten().tolist() == pytest.approx(
        [3 / 49] * 3
    )
    flow = attention_flow(attention)
    assert flow.loc["a"].tolist() == pytest.approx([1, 0]) and flow.loc["b"].tolist() == pytest.approx([4 / 7, 3 / 7])


def test_networks_without_are_one_line(images):
    with pytest.raises(UsageError, match="resnet_m has no attention: name a ViT"):
        attention_maps(StagedModel("resnet_m", 10, 64).eval(), images)
    with pytest.raises(UsageError, match="groups of .* channels: give 1 to"):
        feature_maps(StagedModel("resnet_m", 10, 64).eval(), images, groups=10_000)
    whole = StagedModel.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)), 64).eval()
    with pytest.raises(UsageError, match="has no stages to draw"):
        feature_maps(whole, images)
