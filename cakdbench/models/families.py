"""Families of the timm classes that can be cut open into a stem, four stages and a head.

A family holds what it has read off a network (block ranges, grids) but not the network itself, which is passed
to every call; so a `StagedModel` can be copied, pickled and averaged like any other module.

Stages end after the last block of the stage, before any downsampling and before any final norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.xception import Xception
from torch import Tensor, nn

from cakdbench.models.family import FAMILIES, Family, LastActivation, LastAttention, Network

SPLITS = ("ofa", "even")


class ResNetFamily(Family):
    def stem(self, net: Network, images: Tensor) -> Tensor:
        return net.maxpool(net.act1(net.bn1(net.conv1(images))))

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        return getattr(net, f"layer{number}")(x)

    def last_activation(self, net: Network, number: int) -> LastActivation:
        block = getattr(net, f"layer{number}")[-1]
        return (
            LastActivation(block.act3, block.bn3) if hasattr(block, "act3") else LastActivation(block.act2, block.bn2)
        )


class ResNetV2Family(Family):
    """Pre-activation ResNets (BiT): stage features are the residual sums, before the final norm."""

    def final_norm(self, net: Network, x: Tensor) -> Tensor:
        return net.norm(x)


class ConvNeXtFamily(Family):
    def final_norm(self, net: Network, x: Tensor) -> Tensor:
        return net.norm_pre(x)


class EfficientNetFamily(Family):
    """EfficientNet, MobileNet V1, V2: a stage ends with the last block of its resolution, stage 4 with the head."""

    def __init__(self, net: Network, split: str = "ofa"):
        self.ends = _last_of_each_stride(net)

    @classmethod
    def fits(cls, net: Network) -> bool:
        return len(_last_of_each_stride(net)) == 4

    def stem(self, net: Network, images: Tensor) -> Tensor:
        return net.bn1(net.conv_stem(images))

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        x = _chain(_cut(net.blocks, self.ends, number), x)
        return net.bn2(net.conv_head(x)) if number == 4 else x

    def last_activation(self, net: Network, number: int) -> LastActivation:
        block = net.blocks[self.ends[number - 1]][-1]
        headed = number == 4 and hasattr(net.bn2, "act")  # MobileNetV1 has no convolution after its blocks
        norm = net.bn2 if headed else getattr(block, "bn3", getattr(block, "bn2", None))
        residual = not headed and getattr(block, "has_skip", False)
        activation = getattr(norm, "act", None)
        linear = residual or activation is None or isinstance(activation, nn.Identity)
        return LastActivation() if linear else LastActivation(activation, norm)


def _last_of_each_stride(net: EfficientNet) -> list[int]:
    """Return the index of the last group of blocks at strides 4, 8, 16 and 32, in order."""
    stride, last = net.conv_stem.stride[0], {}
    for index, group in enumerate(net.blocks):
        for conv in (m for m in group.modules() if isinstance(m, nn.Conv2d)):
            stride *= conv.stride[0]
        last[stride] = index
    return [last[s] for s in (4, 8, 16, 32) if s in last]


class XceptionFamily(Family):
    """Cut where the stride reaches 4, 8, 16 and 32: after blocks 1, 2 and 11, and after the exit flow.

    Blocks end in a residual sum; the ReLU that follows belongs to the next block.
    """

    ends = (1, 2, 11, 12)

    def stem(self, net: Network, images: Tensor) -> Tensor:
        x = net.act1(net.bn1(net.conv1(images)))
        return net.act2(net.bn2(net.conv2(x)))

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        first = 1 if number == 1 else self.ends[number - 2] + 1
        x = _chain((getattr(net, f"block{i}") for i in range(first, self.ends[number - 1] + 1)), x)
        if number == 4:
            x = net.act3(net.bn3(net.conv3(x)))
            x = net.act4(net.bn4(net.conv4(x)))
        return x

    def last_activation(self, net: Network, number: int) -> LastActivation:
        return LastActivation(net.act4, net.bn4) if number == 4 else LastActivation()


class SwinFamily(Family):
    """Swin V1: tokens between the stages, timm's NHWC inside them; patch merging opens stages 2 to 4."""

    kind = "msa"
    tokens = True

    def __init__(self, net: Network, split: str = "ofa"):
        self.multiple = net.patch_embed.patch_size[0]
        self.grids = [tuple(net.patch_embed.grid_size)]
        for _ in range(3):
            self.grids.append(tuple(math.ceil(side / 2) for side in self.grids[-1]))

    @classmethod
    def fits(cls, net: Network) -> bool:
        return len(net.layers) == 4

    def stem(self, net: Network, images: Tensor) -> Tensor:
        return net.patch_embed(images).flatten(1, 2)

    def downsample(self, net: Network, number: int, x: Tensor) -> Tensor:
        x = x.unflatten(1, self.grids[max(number - 2, 0)])
        return net.layers[number - 1].downsample(x).flatten(1, 2)

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        return net.layers[number - 1].blocks(x.unflatten(1, self.grids[number - 1])).flatten(1, 2)

    def attention(self, net: Network) -> LastAttention | None:
        """Return that of stage 3, the last with many windows: of its last block whose windows are not shifted."""
        block = [b for b in net.layers[2].blocks if not any(b.shift_size)][-1]
        return LastAttention(3, block.attn, tuple(block.window_size))

    def final_norm(self, net: Network, x: Tensor) -> Tensor:
        return net.norm(x.unflatten(1, self.grids[3]))

    def grid(self, number: int, feature: Tensor) -> tuple[int, int]:
        return self.grids[number - 1]


class IsotropicFamily(Family):
    """Networks of equal blocks on one token grid: Mixer, ResMLP, gMLP."""

    kind = "mlp"
    tokens = True

    def __init__(self, net: Network, split: str = "ofa"):
        embed = self.embed(net)
        self.multiple = self.smallest = embed.patch_size[0]
        self.side = tuple(embed.grid_size)
        self.ends = isotropic_ends(len(net.blocks), split)

    @classmethod
    def fits(cls, net: Network) -> bool:
        return len(net.blocks) >= 4

    def embed(self, net: Network) -> Network:
        return net.stem

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        return _chain(_cut(net.blocks, self.ends, number), x)

    def final_norm(self, net: Network, x: Tensor) -> Tensor:
        return net.norm(x)

    def grid(self, number: int, feature: Tensor) -> tuple[int, int]:
        return self.side


class ViTFamily(IsotropicFamily):
    """ViT and DeiT; prefix tokens (class, registers) come first and stay in the stage features."""

    kind = "msa"

    def __init__(self, net: Network, split: str = "ofa"):
        super().__init__(net, split)
        self.prefix = net.num_prefix_tokens

    def embed(self, net: Network) -> Network:
        return net.patch_embed

    def stem(self, net: Network, images: Tensor) -> Tensor:
        return net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images))))

    def attention(self, net: Network) -> LastAttention | None:
        module = getattr(net.blocks[-1], "attn", None)
        return LastAttention(4, module) if hasattr(module, "qkv") and hasattr(module, "num_heads") else None


def isotropic_ends(depth: int, split: str) -> tuple[int, int, int, int]:
    """Return the last block (0-based) of each stage of `depth` equal blocks.

    "ofa" cuts after blocks 1, 3, depth-3 and depth-1, as the released code of OFA (Hao et al., 2023) does; "even"
    makes four stages of nearly equal length. Fewer than 7 blocks leave "ofa" an empty stage: they are cut evenly.
    """
    if split == "ofa" and depth >= 7:
        return 1, 3, depth - 3, depth - 1
    return depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1, depth - 1


def _cut(blocks: nn.Sequential, ends: Iterable[int], number: int) -> list[nn.Module]:
    edges = [-1, *ends]
    return [blocks[i] for i in range(edges[number - 1] + 1, edges[number] + 1)]


def _chain(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


FAMILIES |= {
    ResNet: ResNetFamily,
    ResNetV2: ResNetV2Family,
    ConvNeXt: ConvNeXtFamily,
    EfficientNet: EfficientNetFamily,
    Xception: XceptionFamily,
    SwinTransformer: SwinFamily,
    MlpMixer: IsotropicFamily,
    VisionTransformer: ViTFamily,
}
