"""Networks of timm's classes that no timm entry point makes."""

from functools import partial
from typing import Any, cast

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from timm.models.xception import Block, SeparableConv2d, Xception
from torch import nn

_STRIDED = {1: (64, 128), 2: (128, 256), 3: (256, 728), 12: (728, 1024)}


def wide_xception(num_classes: int, factor: int) -> Xception:
    """Make timm's `Xception` with all channels times `factor`; its own forward runs unchanged.

    `factor=1` gives the shapes of `legacy_xception`.
    """
    net = Xception(num_classes=num_classes)
    net.conv1, net.bn1 = nn.Conv2d(3, 32 * factor, 3, 2, bias=False), nn.BatchNorm2d(32 * factor)
    net.conv2, net.bn2 = nn.Conv2d(32 * factor, 64 * factor, 3, bias=False), nn.BatchNorm2d(64 * factor)
    for number in range(1, 13):
        setattr(net, f"block{number}", _block(number, factor))
    net.num_features = net.head_hidden_size = 2048 * factor
    net.conv3, net.bn3 = _separable(1024 * factor, 1536 * factor)
    net.conv4, net.bn4 = _separable(1536 * factor, net.num_features)
    net.fc = nn.Linear(net.num_features, num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _block(number: int, factor: int) -> Block:
    inner, outer = (width * factor for width in _STRIDED.get(number, (728, 728)))
    if number not in _STRIDED:
        return Block(inner, outer, 3)
    return Block(inner, outer, 2, 2, start_with_relu=number > 1, grow_first=number < 12)


def _separable(inner: int, outer: int) -> tuple[SeparableConv2d, nn.BatchNorm2d]:
    return SeparableConv2d(inner, outer, 3, 1, 1), nn.BatchNorm2d(outer)


def mobilenet(
    num_classes: int, blocks: tuple[str, ...], stem_size: int, num_features: int, **options: Any
) -> EfficientNet:
    """Make a MobileNet from timm's block strings, one per stage of blocks."""
    groups = decode_arch_def([[block] for block in blocks])
    return EfficientNet(groups, num_classes, num_features, stem_size=stem_size, act_layer=nn.ReLU6, **options)


def resmlp(num_classes: int, init_values: float = 1.0, **options: Any) -> MlpMixer:
    """Make a ResMLP of any size, with the block and norm of timm's `resmlp_12_224`."""
    block = partial(ResBlock, init_values=init_values)
    return MlpMixer(num_classes, mlp_ratio=4, block_layer=cast(type[nn.Module], block), norm_layer=Affine, **options)
