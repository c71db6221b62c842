"""Checkpoints of other times and hands load, and only where they belong."""

import re

import pytest
import torch

from cakdbench.models.checkpoints import unwrapped
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, weights_sha256
from cakdbench.utils.errors import WeightsError
from tests.models.awake import awake, images


def old_swin(state):
    """timm 0.6.5: merging closes a stage, the head is a plain layer, masks and indices are saved."""
    old = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    for key, value in state.items():
        key = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
        old[key.replace("head.fc.", "head.")] = value
        if key.endswith("relative_position_bias_table"):
            old[key.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.long)
    return old


def authors_convnext(state):
    """The names of the ConvNeXt authors' own files."""
    old = {}
    for key, value in state.items():
        key = re.sub(r"^stem\.", "downsample_layers.0.", key)
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        key = re.sub(r"stages\.(\d)\.blocks", r"stages.\1", key)
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("head.norm", "norm").replace("head.fc", "head")
        old[key] = value.flatten(1) if re.search("pwconv.*weight", key) else value
    return old


def authors_resmlp(state):
    """The names of the ResMLP authors' own files."""
    old = {}
    for key, value in state.items():
        key = key.replace("stem.", "patch_embed.").replace("linear_tokens.", "attn.").replace("mlp_channels.", "mlp.")
        key = re.sub(r"\.ls(\d)", r".gamma_\1", key)
        old[key] = value.flatten() if key.endswith((".alpha", ".beta")) else value
    return old


def same(state):
    return state


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("swin_xs", old_swin), ("vit_xs", same), ("mixer_xs", same), ("resmlp_xs", same), ("resnet_s", same),
        ("mobilenet_s", same), ("convnext_m", same), ("convnext_m", authors_convnext), ("resmlp_xs", authors_resmlp),
        ("swin_xs", same),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "wrap",
    [
        same,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "args": "--lr 1"},
    ],
)
@torch.no_grad()
def test_checkpoints_load_whatever_their_names_and_wrappers(name, rename, wrap):
    source, target = awake(name, 10, 64).eval(), StagedModel(name, 10, 64).eval()
    load_weights(target, unwrapped(wrap(rename(source.export_state()))).state)
    assert torch.equal(source(images(64)).logits, target(images(64)).logits)


def test_averaged_weights_come_first():
    averaged, last = (StagedModel("mixer_xs", 10, 64) for _ in range(2))
    model = StagedModel("mixer_xs", 10, 64)
    both = unwrapped({"state_dict": last.export_state(), "state_dict_ema": averaged.export_state()})
    load_weights(model, both.state)
    assert both.averaged and both.taken == "state_dict_ema"
    assert weights_sha256(model) == weights_sha256(averaged) != weights_sha256(last)


@pytest.mark.parametrize("name", ["swin_xs", "vit_xs", "mixer_xs", "resnet_s", "convnext_m", "mobilenet_s"])
def test_a_head_of_another_class_count_is_an_error(name):
    model = StagedModel(name, 7, 64)
    before = weights_sha256(model)
    with pytest.raises(WeightsError, match=f"10 classes and {name} is to have 7"):
        load_weights(model, StagedModel(name, 10, 64).export_state())
    assert weights_sha256(model) == before


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("resnet_s", "swin_xs"),
        ("swin_xs", "resnet_s"),
        ("resnet_m", "resnet_s"),
        ("swin_m", "swin_xs"),
        ("vit_m", "vit_xs"),
    ],
)
def test_a_checkpoint_of_another_network_is_an_error(other, name):
    with pytest.raises(WeightsError, match=name):
        load_weights(StagedModel(name, 10, 64), StagedModel(other, 10, 64).export_state())


def test_a_checkpoint_that_lacks_a_tensor_is_an_error():
    state = StagedModel("resnet_s", 10, 64).export_state()
    del state["layer2.0.bn1.weight"]
    with pytest.raises(WeightsError, match="1 missing .layer2.0.bn1.weight"):
        load_weights(StagedModel("resnet_s", 10, 64), state)


def test_a_checkpoint_of_another_size_is_an_error_where_tokens_are_mixed():
    with pytest.raises(WeightsError, match="at 96 px.*another shape"):
        load_weights(StagedModel("mixer_xs", 10, 96), StagedModel("mixer_xs", 10, 64).export_state())


def test_position_embeddings_are_resized():
    model = StagedModel("vit_xs", 10, 96)
    load_weights(model, StagedModel("vit_xs", 10, 64).export_state())
    assert model.net.pos_embed.shape == (1, 37, 64)


def test_the_hash_tells_weights_apart_and_nothing_else(tmp_path):
    model, twin = awake("resnet_s", 10, 64), StagedModel("resnet_s", 10, 64)
    torch.save(model.export_state(), tmp_path / "w.pt")
    twin.load_exported(torch.load(tmp_path / "w.pt", weights_only=True))
    assert weights_sha256(twin) == weights_sha256(model)
    model(images(64))
    assert weights_sha256(twin) != weights_sha256(model)
    load_weights(twin, model.export_state())
    assert weights_sha256(twin) == weights_sha256(model)
