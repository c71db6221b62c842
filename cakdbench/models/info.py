"""Describe a model without its weights: kind, shapes of its features, where it can be entered."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from cakdbench.models.catalog import create, entry
from cakdbench.models.fallback import family_of
from cakdbench.models.families import SPLITS
from cakdbench.models.family import Family, Network, classify
from cakdbench.utils.errors import UsageError
from cakdbench.utils.meta import ContentFree

Features = tuple[Tensor, ...]


def to_map(x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Turn tokens `(B, prefix + H*W, D)` into a map `(B, D, H, W)`, without the prefix tokens; maps pass unchanged."""
    return x if x.ndim == 4 else x[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """Turn a map `(B, D, H, W)` into tokens `(B, H*W, D)`, row-major; tokens pass unchanged."""
    return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Layout:
    """The form of one stage's feature: a map `(B, C, H, W)`, or tokens `(B, prefix + H*W, C)`, prefix first."""

    channels: int
    grid: tuple[int, int]
    tokens: bool
    prefix: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one sample's feature."""
        height, width = self.grid
        return (self.prefix + height * width, self.channels) if self.tokens else (self.channels, height, width)

    def to_map(self, x: Tensor) -> Tensor:
        """Return a feature of this layout as `(B, C, H, W)`, without prefix tokens."""
        return to_map(x, self.grid, self.prefix)

    def to_tokens(self, x: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Return a map as tokens `(B, L, C)`, behind `prefix` `(B, P, C)` if there is one; inverse of `to_map`."""
        tokens = to_tokens(x)
        return tokens if prefix is None else torch.cat((prefix, tokens), dim=1)

    def prefix_of(self, x: Tensor) -> Tensor:
        """Return the prefix tokens `(B, prefix, C)` of a feature of this layout; `(B, 0, C)` if it has none."""
        return x[:, : self.prefix] if self.tokens else x.new_zeros(len(x), 0, self.channels)


@dataclass(frozen=True)
class AttentionLayout:
    """The attention a method can look into, that of the last block, or of Swin's last unshifted one in stage 3.

    Its tokens lie as those of `layouts[stage - 1]`; with a `window`, tokens attend only within windows of that
    height and width, the first of which starts at the grid's corner.
    """

    stage: int
    heads: int
    window: tuple[int, int] | None


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a model that are known without its weights.

    Attributes:
        kind: "cnn", "msa" or "mlp".
        image_size: height and width of the input, in pixels.
        width: dimension of `Output.pooled`.
        layouts: of the four stage features.
        composable: True if stem, stages and head can be called one by one.
        entries: layouts of what the first block of each stage takes; None if not composable.
        attention: the source of `Output.attention`; None if there is none to look into.
    """

    name: str
    kind: str
    image_size: int
    num_classes: int
    width: int
    layouts: tuple[Layout, Layout, Layout, Layout]
    composable: bool
    parameters: int
    entries: tuple[Layout, Layout, Layout, Layout] | None = None
    attention: AttentionLayout | None = None


@functools.lru_cache(maxsize=256)
def describe(name: str, num_classes: int, image_size: int = 224, split: str = "ofa") -> ModelInfo:
    """Build the model on the meta device, without allocating weights, and read its shapes off a dummy pass.

    Raises:
        UsageError: unknown name, a size the network cannot take, or a network that gives no four stages.
    """
    with torch.device("meta"), ContentFree():
        return inspect_network(create(name, num_classes, image_size).eval(), name, image_size, split)


def inspect_network(net: Network, name: str, image_size: int, split: str = "ofa") -> ModelInfo:
    """Read the shapes of a timm network in eval mode off a dummy pass.

    Raises:
        UsageError: a size the network cannot take, or a network that gives no four stages.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    family = family_of(net, split, name)
    _check_size(name, family, image_size)
    pooled, entered, stages = _dummy_pass(name, net, family, image_size)
    return ModelInfo(
        name=name,
        kind=family.kind,
        image_size=image_size,
        num_classes=net.num_classes,
        width=pooled.shape[1],
        layouts=_layouts(family, stages),
        composable=family.composable,
        parameters=sum(p.numel() for p in net.parameters()),
        entries=_layouts(family, entered) if entered else None,
        attention=_attention(family, net),
    )


def _attention(family: Family, net: Network) -> AttentionLayout | None:
    last = family.attention(net)
    return AttentionLayout(last.stage, last.module.num_heads, last.window) if last else None


@torch.no_grad()
def _dummy_pass(name: str, net: Network, family: Family, size: int) -> tuple[Tensor, Features, Features]:
    """Return the pooled feature, what the stages take (nothing if they are not run one by one), and what they give."""
    images = next(net.parameters()).new_zeros(1, 3, size, size)
    try:
        if family.composable:
            entered, stages = zip(*family.walk(net, images), strict=True)
            final = family.final_norm(net, stages[-1])
        else:
            entered, (final, stages) = (), family.run(net, images, True)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        own = entry(name).image_size
        raise UsageError(f"{name} does not run at {size} px ({error}); its own size is image_size={own}") from error
    return _pooled(name, net, final), entered, stages


def _pooled(name: str, net: Network, final: Tensor) -> Tensor:
    try:
        return classify(net, final)[0]
    except (IndexError, RuntimeError) as error:
        reason = f"its classifier does not take its pooled feature ({error})"
        raise UsageError(f"{name} ({type(net).__name__}) cannot be used: {reason}") from error


def _layouts(family: Family, features: Features) -> tuple[Layout, Layout, Layout, Layout]:
    first, second, third, fourth = (_layout(family, number, x) for number, x in enumerate(features, 1))
    return first, second, third, fourth


def _layout(family: Family, number: int, x: Tensor) -> Layout:
    grid = family.grid(number, x)
    return Layout(x.shape[2], grid, True, family.prefix) if family.tokens else Layout(x.shape[1], grid, False)


def _check_size(name: str, family: Family, size: int) -> None:
    if size < family.smallest:
        raise UsageError(f"{name} at {size} px is too small: use image_size={family.smallest} or more")
    if size % family.multiple:
        below = size // family.multiple * family.multiple
        raise UsageError(
            f"{name} cuts images into patches of {family.multiple} px, which {size} px do not fit: "
            f"use image_size={below} or {below + family.multiple}"
        )
