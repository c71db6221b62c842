"""The table of model ids, and how a network is made from one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.layers import DropPath
from timm.models import PretrainedCfg, get_pretrained_cfg
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from cakdbench.models.builders import mobilenet, resmlp, wide_xception
from cakdbench.utils.errors import RAISED, TeacherError, UsageError, describe_error, unknown

B = TypeVar("B", bound=Callable[..., nn.Module])

TIMM = "timm:"


@dataclass(frozen=True)
class ZooEntry:
    """One model id.

    Attributes:
        timm: the timm entry point the network is made by.
        options: what differs from that entry point's defaults.
        hub: the timm tag of the weights that `pretrained=True` loads; None if there are none for this network.
        image_size: the size, in pixels, the id is used at.
        build: makes the network where no timm entry point can.
        module: that registered a network of the user's own; None for those of cakdbench and timm.
    """

    title: str
    timm: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    hub: str | None = None
    notes: str = ""
    image_size: int = 224
    build: Callable[..., nn.Module] | None = None
    module: str | None = None


def _mini(
    title: str, timm_name: str, kind: str, build: Callable[..., nn.Module] | None = None, **options: Any
) -> ZooEntry:
    return ZooEntry(title, timm_name, kind, options, notes="demo model", image_size=64, build=build)


_SWIN = "swin_tiny_patch4_window7_224"
_THIN_STEM: dict[str, Any] = {"layers": (1, 1, 1, 1), "stem_type": "deep", "stem_width": 8}

MODELS: dict[str, ZooEntry] = {
    "resnet18": ZooEntry("ResNet18", "resnet18", "cnn", hub="resnet18.a1_in1k"),
    "resnet34": ZooEntry("ResNet34", "resnet34", "cnn", hub="resnet34.a1_in1k"),
    "resnet50": ZooEntry("ResNet50", "resnet50", "cnn", hub="resnet50.a1_in1k"),
    "resnet101": ZooEntry("ResNet101", "resnet101", "cnn", hub="resnet101.a1_in1k"),
    "resnet152": ZooEntry("ResNet152", "resnet152", "cnn", hub="resnet152.a1_in1k"),
    "resnet50x2": ZooEntry(
        "ResNet50x2",
        "resnet50",
        "cnn",
        {"channels": (128, 256, 512, 1024)},
        notes="ResNet50 with its four stages twice as wide and the stem as it was: 15.87 G multiply-adds at 224 px, "
        "as PCA/GL prints (15.9); BiT's R50x2 doubles the stem too and has 16.12 G",
    ),
    "resnet152x2": ZooEntry(
        "ResNet152x2",
        "resnetv2_152x2_bit",
        "cnn",
        hub="resnetv2_152x2_bit.goog_in21k_ft_in1k",
        notes="BiT-M; the 212 G that PCA/GL prints are those of 480 px (210.4 G)",
    ),
    "resnet101x3": ZooEntry(
        "ResNet101x3",
        "resnetv2_101x3_bit",
        "cnn",
        hub="resnetv2_101x3_bit.goog_in21k_ft_in1k",
        notes="BiT-M; the 205 G that PCA/GL prints are those of 384 px (204.2 G)",
    ),
    "mobilenetv1": ZooEntry("MobileNetV1", "mobilenetv1_100", "cnn", hub="mobilenetv1_100.ra4_e3600_r224_in1k"),
    "mobilenetv2": ZooEntry("MobileNetV2", "mobilenetv2_100", "cnn", hub="mobilenetv2_100.ra_in1k"),
    "convnext_t": ZooEntry("ConvNeXt-T", "convnext_tiny", "cnn", hub="convnext_tiny.fb_in1k"),
    "efficientnet_b0": ZooEntry("EfficientNet-B0", "efficientnet_b0", "cnn", hub="efficientnet_b0.ra_in1k"),
    "xception": ZooEntry("Xception", "legacy_xception", "cnn", hub="legacy_xception.tf_in1k"),
    "xceptionx2": ZooEntry(
        "Xceptionx2",
        "legacy_xception",
        "cnn",
        {"factor": 2},
        build=wide_xception,
        notes="every width of Xception doubled; PCA/GL gives no definition, and its 57.3 G fit no usual image size",
    ),
    "vit_s": ZooEntry("ViT-S", "vit_small_patch16_224", "msa", hub="vit_small_patch16_224.augreg_in21k_ft_in1k"),
    "vit_b16": ZooEntry("ViT-B/16", "vit_base_patch16_224", "msa", hub="vit_base_patch16_224.augreg_in21k_ft_in1k"),
    "vit_b32": ZooEntry("ViT-B/32", "vit_base_patch32_224", "msa", hub="vit_base_patch32_224.augreg_in21k_ft_in1k"),
    "vit_l16": ZooEntry("ViT-L/16", "vit_large_patch16_224", "msa", hub="vit_large_patch16_224.augreg_in21k_ft_in1k"),
    "deit_t": ZooEntry("DeiT-T", "deit_tiny_patch16_224", "msa", hub="deit_tiny_patch16_224.fb_in1k"),
    "deit_b": ZooEntry("DeiT-B", "deit_base_patch16_224", "msa", hub="deit_base_patch16_224.fb_in1k"),
    "swin_t": ZooEntry("Swin-T", _SWIN, "msa", hub="swin_tiny_patch4_window7_224.ms_in1k"),
    "swin_b": ZooEntry(
        "Swin-B", "swin_base_patch4_window7_224", "msa", hub="swin_base_patch4_window7_224.ms_in22k_ft_in1k"
    ),
    "swin_l": ZooEntry(
        "Swin-L", "swin_large_patch4_window7_224", "msa", hub="swin_large_patch4_window7_224.ms_in22k_ft_in1k"
    ),
    "swin_p": ZooEntry(
        "Swin-P",
        _SWIN,
        "msa",
        {"embed_dim": 48, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)},
        notes="Swin-Pico of OFA: the CIFAR student",
    ),
    "swin_n": ZooEntry(
        "Swin-N",
        _SWIN,
        "msa",
        {"embed_dim": 64, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)},
        notes="Swin-Nano of OFA: the ImageNet student",
    ),
    "mixer_b16": ZooEntry("Mixer-B/16", "mixer_b16_224", "mlp", hub="mixer_b16_224.goog_in21k_ft_in1k"),
    "resmlp_s12": ZooEntry("ResMLP-S12", "resmlp_12_224", "mlp", hub="resmlp_12_224.fb_in1k"),
    # The demo: few and wide layers, which two CPU cores train fastest, on the grids of 224 px: at 64 px the 4 x 4
    # tokens of patch 16 are the stage-3 grid of the pyramids, as 14 x 14 are at 224 px. Short training calls for the
    # ViT init that scales with the width, and for ResMLP branches that start at full strength.
    "resnet_m": _mini("ResNet-mini", "resnet18", "cnn", channels=(32, 64, 128, 192), **_THIN_STEM),
    "convnext_m": _mini(
        "ConvNeXt-mini", "convnext_tiny", "cnn", depths=(1, 1, 2, 1), dims=(32, 64, 128, 224), conv_mlp=True
    ),
    "swin_m": _mini(
        "Swin-mini", _SWIN, "msa", embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4
    ),
    "vit_m": _mini("ViT-mini", "vit_small_patch16_224", "msa", embed_dim=96, depth=8, num_heads=3, weight_init="jax"),
    "mixer_m": _mini("Mixer-mini", "mixer_b16_224", "mlp", MlpMixer, embed_dim=112, num_blocks=8),
    "resnet_s": _mini("ResNet-small", "resnet18", "cnn", channels=(16, 32, 64, 128), **_THIN_STEM),
    "mobilenet_s": _mini(
        "MobileNet-small",
        "mobilenetv2_100",
        "cnn",
        mobilenet,
        stem_size=8,
        num_features=320,
        blocks=("ds_r1_k3_s2_c16", "ir_r1_k3_s2_e4_c32", "ir_r2_k3_s2_e4_c64", "ir_r1_k3_s2_e4_c96"),
    ),
    "swin_xs": _mini(
        "Swin-tiny-mini", _SWIN, "msa", embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4
    ),
    "vit_xs": _mini(
        "ViT-tiny-mini", "vit_small_patch16_224", "msa", embed_dim=64, depth=8, num_heads=2, weight_init="jax"
    ),
    "mixer_xs": _mini("Mixer-tiny-mini", "mixer_b16_224", "mlp", MlpMixer, embed_dim=64, num_blocks=8),
    "resmlp_xs": _mini("ResMLP-tiny-mini", "resmlp_12_224", "mlp", resmlp, embed_dim=64, num_blocks=8),
}


def register_model(id: str, *, title: str = "", kind: str = "", image_size: int = 224) -> Callable[[B], B]:
    """Enter a network of one's own under `id`, as a decorator of a class or function that makes it.

    It is called with `num_classes`, with `image_size` if it takes one, and with `drop_path_rate` if the recipe has one;
    it returns an `nn.Module` from images `(B, 3, S, S)` to logits `(B, num_classes)`. Methods that need features take
    it if `family_for` says where its stages are. The code of the module, and of what it imports, is part of the key of
    every run with the network.

    Args:
        kind: "cnn", "msa" or "mlp"; default: "msa" if it has attention, else "cnn".
        image_size: the size, in pixels, that it is made for.

    Raises:
        UsageError: the id is taken, or cannot stand in the name of a pair.
    """
    module = sys._getframe(1).f_globals["__name__"]  # of the file, also where the class is imported from another

    def enter(build: B) -> B:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", id):
            raise UsageError(f"model id {id!r}: use letters, digits, and _ . - alone")
        if id in MODELS and MODELS[id].module != module:
            raise UsageError(f"model id {id!r} is taken by {MODELS[id].module or 'cakdbench'}: choose another")
        MODELS[id] = ZooEntry(title or id, "", kind, image_size=image_size, build=build, module=module)
        return build

    return enter


def entry(name: str) -> ZooEntry:
    """Return the entry of a model id, or one made up for `timm:NAME`.

    Raises:
        UsageError: neither the zoo nor timm knows the name.
    """
    if not name.startswith(TIMM):
        if name not in MODELS:
            raise unknown("model", name, MODELS, "networks of your own: --model-file FILE")
        return MODELS[name]
    architecture, _, tag = name.removeprefix(TIMM).partition(".")
    if architecture not in timm.list_models():  # `is_model` also knows the names that timm has given up
        raise unknown("timm model", architecture, timm.list_models())
    hub = f"{architecture}.{tag}" if tag else architecture
    module = timm.models.model_entrypoint(architecture).__module__
    size = _defaults(architecture).input_size[-1]
    own = None if module.startswith("timm.") else module
    return ZooEntry(architecture, architecture, "", hub=hub, image_size=size, module=own)


def _defaults(architecture: str) -> PretrainedCfg:
    """Return timm's facts about an entry point; those of any network where timm has none."""
    return get_pretrained_cfg(architecture) or PretrainedCfg()


def create(
    name: str,
    num_classes: int,
    image_size: int,
    *,
    pretrained: bool | str | None = False,
    drop_path: float = 0.0,
) -> nn.Module:
    """Make the timm network of a model id.

    Args:
        name: a model id, or `timm:NAME`.
        pretrained: True for the id's own hub weights, or the timm tag of others of the same shapes. A head of
            another number of classes starts anew, as in fine-tuning.
        drop_path: stochastic depth of the last block; 0 switches it off also where timm's default does not.

    Raises:
        UsageError: unknown name or tag, or an option the network does not take.
        TeacherError: the weights could not be had.
    """
    made = entry(name)
    options = dict(made.options, num_classes=num_classes)
    if made.timm and _defaults(made.timm).fixed_input_size:
        options["img_size"] = image_size
    elif made.build and "image_size" in inspect.signature(made.build).parameters:
        options["image_size"] = image_size
    if drop_path:
        options["drop_path_rate"] = drop_path
    tag = made.hub if pretrained is True else pretrained or None
    if pretrained and made.hub is None:
        raise TeacherError(f"no hub weights exist for {name}; train it, or give weights by path or URL")
    net = _build(name, made, options, tag)
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} is made as {type(net).__name__}: let what is registered return an nn.Module")
    if not drop_path:
        for module in net.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    return net


def _build(name: str, made: ZooEntry, options: dict[str, Any], tag: str | None) -> nn.Module:
    weights: dict[str, Any] = {"pretrained": True, "pretrained_cfg": _hub_config(tag)} if tag else {}
    try:
        if made.build is not None:
            return made.build(**options)
        return timm.create_model(made.timm, **weights, **options)
    except RAISED as error:
        raise _building_error(name, made, options, tag, error) from error


def _building_error(
    name: str, made: ZooEntry, options: dict[str, Any], tag: str | None, error: BaseException
) -> BaseException:
    """Return an error of building a network in the user's words; one that is a fault of ours as it is."""
    if made.module:
        file = getattr(sys.modules.get(made.module), "__file__", None)
        return UsageError(f"{name} cannot be made with {options}: {describe_error(error, file)}")
    if isinstance(error, TypeError) or (not tag and isinstance(error, OSError | RuntimeError | ValueError)):
        return UsageError(f"{name} cannot be made with {options}: {error}")
    if isinstance(error, OSError | RuntimeError | ValueError):
        return TeacherError(
            f"the weights {tag} of {name} could not be loaded from the timm hub: {error}; "
            "download them on a machine with a connection, and name the file"
        )
    return error


def _hub_config(tag: str) -> PretrainedCfg:
    try:
        config = get_pretrained_cfg(tag)
    except RuntimeError:
        config = None
    if config is None:
        raise unknown("timm weights", tag, timm.list_models(pretrained=True))
    return config


def hub_statistics(tag: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel that the hub weights `tag` expect their input normalised with."""
    config = _hub_config(tag)
    return config.mean, config.std


def hub_classes(tag: str) -> int:
    """Return how many classes the hub weights `tag` tell apart."""
    return _hub_config(tag).num_classes


def hub_weights_are_here(tag: str) -> bool:
    """Return True if the hub weights `tag` are in this machine's cache, where timm finds them by itself."""
    config = _hub_config(tag)
    if config.hf_hub_id:
        names = (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
        return any(name and isinstance(try_to_load_from_cache(config.hf_hub_id, name), str) for name in names)
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(str(config.url)).name).is_file()
