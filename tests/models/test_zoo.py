"""What is known of every model without its weights."""

import pytest
import torch

from cakdbench.models.staged import Layout, StagedModel, describe
from cakdbench.models.zoo import MODELS, hub_statistics, model_ids, model_info, model_kind
from cakdbench.utils.errors import TeacherError, UsageError

SUITES = [
    "resnet18", "resnet34", "resnet50", "resnet152", "resnet50x2", "resnet152x2", "resnet101x3", "mobilenetv1",
    "mobilenetv2", "convnext_t", "efficientnet_b0", "xception", "xceptionx2", "vit_s", "vit_b16", "vit_b32",
    "vit_l16", "deit_t", "deit_b", "swin_t", "swin_b", "swin_l", "swin_p", "swin_n", "mixer_b16", "resmlp_s12",
]  # fmt: skip
PYRAMID = (56, 28, 14, 7)


def pyramid(*channels, tokens=False):
    return tuple(Layout(c, (side, side), tokens) for c, side in zip(channels, PYRAMID, strict=True))


def isotropic(width, side=14, prefix=0):
    return (Layout(width, (side, side), True, prefix),) * 4


SHAPES = {
    "resnet18": (pyramid(64, 128, 256, 512), 512),
    "resnet34": (pyramid(64, 128, 256, 512), 512),
    "resnet50": (pyramid(256, 512, 1024, 2048), 2048),
    "resnet101": (pyramid(256, 512, 1024, 2048), 2048),
    "resnet50x2": (pyramid(512, 1024, 2048, 4096), 4096),
    "resnet101x3": (pyramid(768, 1536, 3072, 6144), 6144),
    "mobilenetv1": (pyramid(128, 256, 512, 1024), 1024),
    "mobilenetv2": (pyramid(24, 32, 96, 1280), 1280),
    "convnext_t": (pyramid(96, 192, 384, 768), 768),
    "timm:convnext_base": (pyramid(128, 256, 512, 1024), 1024),
    "efficientnet_b0": (pyramid(24, 40, 112, 1280), 1280),
    "vit_s": (isotropic(384, prefix=1), 384),
    "vit_b16": (isotropic(768, prefix=1), 768),
    "vit_b32": (isotropic(768, 7, prefix=1), 768),
    "vit_l16": (isotropic(1024, prefix=1), 1024),
    "deit_t": (isotropic(192, prefix=1), 192),
    "swin_t": (pyramid(96, 192, 384, 768, tokens=True), 768),
    "swin_b": (pyramid(128, 256, 512, 1024, tokens=True), 1024),
    "swin_l": (pyramid(192, 384, 768, 1536, tokens=True), 1536),
    "swin_n": (pyramid(64, 128, 256, 512, tokens=True), 512),
    "swin_p": (pyramid(48, 96, 192, 384, tokens=True), 384),
    "mixer_b16": (isotropic(768), 768),
    "resmlp_s12": (isotropic(384), 384),
}
PARAMETERS = {
    ("resnet18", 1000): 11_689_512,
    ("deit_t", 1000): 5_717_416,
    ("resmlp_s12", 1000): 15_350_872,
    ("swin_p", 1000): 5_506_996,
    ("swin_p", 100): 5_160_496,
    ("swin_n", 1000): 9_599_940,
    ("swin_n", 100): 9_138_240,
}


def test_every_model_of_the_suites_is_there():
    assert set(SUITES) <= set(model_ids())


@pytest.mark.parametrize("name", SHAPES)
def test_stage_shapes_at_224_px(name):
    info = model_info(name, 1000, 224)
    assert (info.layouts, info.width) == SHAPES[name]


@pytest.mark.parametrize("name", ["xception", "xceptionx2"])
def test_xception_stages_halve_the_resolution(name):
    sides = [layout.grid[0] for layout in model_info(name, 1000, 224).layouts]
    assert sides == [55, 28, 14, 7]


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_parameter_counts(name, classes):
    assert model_info(name, classes, 224).parameters == PARAMETERS[name, classes]


def test_the_wide_xception_is_xception_at_factor_one():
    from cakdbench.models.builders import wide_xception

    net = wide_xception(num_classes=10, factor=1)
    twin = StagedModel("xception", 10, 64)
    twin.load_exported(net.state_dict())


@pytest.mark.parametrize("name", model_ids())
def test_the_listed_kind_is_the_network_s(name):
    assert model_kind(name) == MODELS[name].kind == model_info(name, 1000, MODELS[name].image_size).kind


def test_the_list_of_models_names_each_and_its_size(shell):
    code, output = shell("list", "models")
    assert code == 0
    lines = {line.split()[1]: line for line in output.splitlines() if line.startswith("│") and line.split()[1] != "│"}
    assert set(lines) == set(model_ids())
    assert "28,288,354" in lines["swin_t"] and "11,689,512" in lines["resnet18"]


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.notes == "demo model"])
def test_demo_models_keep_the_geometry_of_224_px(name):
    info = model_info(name, 10, 64)
    assert info.layouts[2].grid == (4, 4)
    assert info.parameters < 1.2e6
    assert info.composable


@pytest.mark.parametrize("name", ["resnet_s", "swin_xs", "vit_xs", "mixer_xs", "timm:regnety_002"])
def test_info_of_a_model_matches_the_model(name):
    info = model_info(name, 7, 64)
    model = StagedModel(name, 7, 64)
    assert model.info == info
    assert sum(p.numel() for p in model.parameters()) == info.parameters
    assert (model.name, model.kind, model.width, model.num_classes) == (name, info.kind, info.width, 7)


@pytest.mark.parametrize("name", ["vit_xs", "timm:regnety_002"])
def test_weights_depend_on_the_seed_alone(name):
    def weights():
        torch.manual_seed(3)
        return StagedModel(name, 5, 64).export_state()

    describe.cache_clear()
    first, again = weights(), weights()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_t", 64, "did you mean vit_s"),
        ("timm:resnet19", 64, "did you mean resnet"),
        ("resnet18", 16, "image_size=32 or more"),
        ("vit_s", 100, "image_size=96 or 112"),
        ("vit_b32", 16, "image_size=32 or more"),
        ("mixer_b16", 50, "image_size=48 or 64"),
        ("swin_t", 66, "image_size=64 or 68"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_out(name, size, words):
    with pytest.raises(UsageError, match=words) as refusal:
        model_info(name, 10, size)
    assert name.removeprefix("timm:") in str(refusal.value)


def test_a_name_like_no_other_does_not_list_all_of_timm():
    with pytest.raises(UsageError, match="in all") as refusal:
        model_info("timm:qqqqqqqq", 10)
    assert len(str(refusal.value)) < 1000


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="ofa, even"):
        StagedModel("vit_xs", 10, 64, split="odd")


@pytest.mark.parametrize("name", ["xception", "xceptionx2"])
def test_drop_path_is_refused_where_there_is_none(name):
    with pytest.raises(UsageError, match="drop_path_rate"):
        StagedModel(name, 10, 64, drop_path=0.1)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.hub])
def test_hub_weights_have_the_architecture_of_their_model(name):
    entry = MODELS[name]
    assert entry.hub.split(".")[0] == entry.timm
    mean, std = hub_statistics(entry.hub)
    assert len(mean) == len(std) == 3


def test_hub_weights_of_unknown_tags_are_refused():
    with pytest.raises(UsageError, match="resnet18.a1_in1k"):
        StagedModel("resnet18", 10, 64, pretrained="resnet18.a1_in1")
    with pytest.raises(TeacherError, match="swin_p"):
        StagedModel("swin_p", 10, 64, pretrained=True)


@pytest.mark.parametrize("pretrained", [True, "mobilenetv2_050.lamb_in1k"])
def test_a_hub_that_cannot_be_reached_is_told(pretrained, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(TeacherError, match="mobilenetv2_(100.ra|050.lamb)_in1k of mobilenetv2 could not be loaded"):
        StagedModel("mobilenetv2", 1000, 64, pretrained=pretrained)
