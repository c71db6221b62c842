"""Describe a model without its weights: kind, shapes of its features, where it can be entered."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cakdbench.models.catalog import create, entry
from cakdbench.models.fallback import WholeFamily, family_of, find_head
from cakdbench.models.families import SPLITS
from cakdbench.models.family import Family, Network
from cakdbench.utils.errors import RAISED, UsageError, describe_error, file_of
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


class NoStages(tuple[Layout, Layout, Layout, Layout]):
    """In the place of layouts, for a network without stages; whoever asks for one gets a UsageError."""

    reason: str

    def __new__(cls, reason: str = "") -> NoStages:
        layouts = super().__new__(cls)
        layouts.reason = reason
        return layouts

    def __getitem__(self, index: Any) -> Any:
        raise UsageError(self.reason)

    def __iter__(self) -> Any:
        raise UsageError(self.reason)


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a model that are known without its weights.

    Attributes:
        kind: "cnn", "msa" or "mlp".
        image_size: height and width of the input, in pixels.
        width: dimension of `Output.pooled`; 0 if the network gives none.
        layouts: of the four stage features; `NoStages` if the network gives none.
        composable: True if stem, stages and head can be called one by one.
        entries: layouts of what the first block of each stage takes; None if not composable.
        attention: the source of `Output.attention`; None if there is none to look into.
        head: of a network without stages, the name of the layer that takes `Output.pooled`.
        members: the facts of each of several networks; see `models/ensemble.py`.
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

    head: str | None = None
    members: tuple[ModelInfo, ...] = ()

    @property
    def parts(self) -> frozenset[str]:
        """Return what the network gives a method, in the words of `Method.needs`; of several what each of them does."""
        if self.members:
            return frozenset.intersection(*(member.parts for member in self.members))
        pooled = {"pooled"} if self.width else set()
        stages = set() if isinstance(self.layouts, NoStages) else {"stages", "preacts", "attention"}
        return frozenset({"logits", "model"} | pooled | stages)


@functools.lru_cache(maxsize=256)
def describe(name: str, num_classes: int, image_size: int = 224, split: str = "ofa") -> ModelInfo:
    """Build the model on the meta device, without allocating weights, and read its shapes off a dummy pass.

    A network of one's own that cannot be built there is built on the CPU.

    Raises:
        UsageError: unknown name, a size the network cannot take, or a network that gives no logits.
    """

    def look() -> ModelInfo:
        return inspect_network(create(name, num_classes, image_size).eval(), name, image_size, split)

    try:
        with torch.device("meta"), ContentFree():
            info = look()
    except UsageError:
        if entry(name).module is None:
            raise
        info = look()
    if info.num_classes != num_classes:
        raise UsageError(f"{name} gives {info.num_classes} logits for {num_classes} classes: let it use num_classes")
    return replace(info, kind=entry(name).kind or info.kind)  # what its author says


def inspect_network(net: Network, name: str, image_size: int, split: str = "ofa") -> ModelInfo:
    """Read the shapes of a network in eval mode off a dummy pass.

    Raises:
        UsageError: a size the network cannot take, an adapter that fails, or a network that gives no logits.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    family = family_of(net, split)
    if isinstance(family, str):
        return inspect_whole(net, name, image_size, family)
    _check_size(name, family, image_size)
    try:
        return _inspect_stages(net, name, image_size, family)
    except RAISED as error:  # whatever a network raises that is of another form than its class
        if not is_shipped(family):
            file = file_of(type(family))
            raise UsageError(f"the stages of {name} at {image_size} px: {describe_error(error, file)}") from error
        return inspect_whole(net, name, image_size, f"its stages cannot be run ({_first_line(error)})")


def is_shipped(family: Family) -> bool:
    """Return True for a family of cakdbench, and False for an adapter of the user's own."""
    return type(family).__module__.startswith("cakdbench.")


@torch.no_grad()
def inspect_whole(net: Network, name: str, size: int, reason: str) -> ModelInfo:
    """Describe a network by its logits alone.

    Args:
        reason: why it gives no stages.
    """
    try:
        logits, width, head = find_head(net, _dummy_images(net, size))
    except UsageError:
        raise
    except RAISED as error:  # whatever a network raises
        own = native_size(net)
        hint = f"; its own size is image_size={own}" if own and own != size else ""
        raise UsageError(f"{name} does not run at {size} px ({_first_line(error)}){hint}") from error
    return ModelInfo(
        name=name,
        kind=WholeFamily(net, head).kind,
        image_size=size,
        num_classes=logits.shape[1],
        width=width,
        layouts=NoStages(f"{name} ({type(net).__name__}) gives no stage features: {reason}"),
        composable=False,
        parameters=sum(p.numel() for p in net.parameters()),
        head=head,
    )


@torch.no_grad()
def _inspect_stages(net: Network, name: str, size: int, family: Family) -> ModelInfo:
    images, entered = _dummy_images(net, size), ()
    if family.composable:
        entered, stages = zip(*family.walk(net, images), strict=True)
        final = family.final_norm(net, stages[-1])
    else:
        final, stages = family.run(net, images, True)
    pooled, logits = family.classify(net, final)
    return ModelInfo(
        name=name,
        kind=family.kind,
        image_size=size,
        num_classes=logits.shape[1],
        width=pooled.shape[1],
        layouts=_layouts(family, stages),
        composable=family.composable,
        parameters=sum(p.numel() for p in net.parameters()),
        entries=_layouts(family, entered) if entered else None,
        attention=_attention(family, net),
    )


def _dummy_images(net: Network, size: int) -> Tensor:
    return next(net.parameters()).new_zeros(1, 3, size, size)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def native_size(net: Network) -> int | None:
    """Return the image size that a network was made for, where it says so."""
    size = getattr(getattr(net, "patch_embed", None), "img_size", None)
    config = getattr(net, "pretrained_cfg", None) or {}
    size = size or config.get("input_size", ())[1:]
    return size[0] if size else None


def _attention(family: Family, net: Network) -> AttentionLayout | None:
    last = family.attention(net)
    return AttentionLayout(last.stage, last.module.num_heads, last.window) if last else None


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
