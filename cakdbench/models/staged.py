"""A timm classifier seen as a stem, four stages and a head.

    model = StagedModel("swin_t", num_classes=100)
    x = model.stem(images)
    for number in (1, 2, 3, 4):
        x = model.stage(number, x)
    output = model.head(x)                       # output.pooled, output.logits
    output = model(images, stages=True)          # output.stages: the four features

Calling the parts one after the other gives, bit for bit, what timm's own forward gives.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cakdbench.models.catalog import TIMM, create
from cakdbench.models.fallback import WholeFamily, family_of, logits_of
from cakdbench.models.family import Family, Network
from cakdbench.models.hooks import QKV, capture_attention, capture_preactivations, heads_of
from cakdbench.models.info import (
    AttentionLayout,
    Layout,
    ModelInfo,
    NoStages,
    describe,
    inspect_network,
    inspect_whole,
    is_shipped,
    native_size,
    to_map,
    to_tokens,
)
from cakdbench.utils.errors import UsageError
from cakdbench.utils.meta import ContentFree, has_content

__all__ = [
    "AttentionLayout",
    "Layout",
    "ModelInfo",
    "NoStages",
    "Output",
    "StagedModel",
    "describe",
    "native_size",
    "meta_model",
    "to_map",
    "to_tokens",
]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class Output:
    """Hold what a model makes of a batch.

    Attributes:
        logits: `(B, num_classes)`.
        pooled: `(B, width)`, the exact vector the classifier consumes.
        stages: the four stage features in their layouts, or None if they were not asked for.
        preacts: the same before the activation that a stage ends in; where it ends in none, the stage features.
        attention: Q, K and V `(B, heads, prefix + H*W, d)` of `ModelInfo.attention`.
        each: of several networks, the output of each; `logits` then is the mean, and all else is None.
    """

    logits: Tensor | None
    pooled: Tensor | None
    stages: tuple[Tensor, ...] | None = None
    preacts: tuple[Tensor, ...] | None = None
    attention: QKV | None = None
    each: tuple[Output, ...] = ()


class StagedModel(nn.Module):
    """A timm classifier in parts; `net` is the untouched timm network.

    Stage features are NCHW maps for CNNs and tokens for everything else; Swin's are tokens `(B, H*W, C)`.
    Networks of a class that cannot be cut open still give their stage features, as maps; their `stem`, `stage`
    and `head` raise. Any other network gives logits, and what its last layer takes, if there is one.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        image_size: int = 224,
        *,
        pretrained: bool | str | None = False,
        drop_path: float = 0.0,
        split: str = "ofa",
    ):
        """Make the model with fresh or hub weights.

        Args:
            name: a model id, or `timm:NAME`.
            pretrained: True for the id's own hub weights, or the timm tag of others.
            drop_path: stochastic depth rate of the last block.
            split: where networks of equal blocks are cut: "ofa" (after blocks 1, 3, n-3, n-1) or "even".

        Raises:
            UsageError: unknown name, or a size or option the network does not take.
            TeacherError: the hub weights could not be had.
        """
        super().__init__()
        info = describe(name, num_classes, image_size, split)
        self._hold(create(name, num_classes, image_size, pretrained=pretrained, drop_path=drop_path), info, split)

    @classmethod
    def wrap(cls, net: Network, image_size: int | None = None, split: str = "ofa") -> StagedModel:
        """Return a staged model around a classifier that exists, with its weights.

        Args:
            image_size: height and width of its images; None for those it was made for.

        Raises:
            UsageError: it gives no logits at this size, or does not say which size it was made for.
        """
        size = image_size or native_size(net)
        if size is None:
            raise UsageError(f"{type(net).__name__} does not say which images it is made for: give image_size")
        config = getattr(net, "pretrained_cfg", None) or {}
        name = f"{TIMM}{config['architecture']}" if "architecture" in config else type(net).__name__
        training, _ = net.training, net.eval()
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._hold(net, inspect_network(net, name, size, split), split)
        return model.train(training)

    def _hold(self, net: Network, info: ModelInfo, split: str) -> None:
        self.info = info
        self.net: Network = net
        family = WholeFamily(net, info.head) if isinstance(info.layouts, NoStages) else family_of(net, split)
        assert not isinstance(family, str), f"{info.name} has been described with stages"
        self.family: Family = family
        self.resizes = False
        self.register_buffer("input_scale", None, persistent=False)
        self.register_buffer("input_shift", None, persistent=False)
        known = is_shipped(family) and (family.composable or isinstance(family, WholeFamily))
        if not known and has_content(net):
            self._must_agree()

    name = property(lambda self: self.info.name)
    kind = property(lambda self: self.info.kind)
    image_size = property(lambda self: self.info.image_size)
    num_classes = property(lambda self: self.info.num_classes)
    width = property(lambda self: self.info.width)
    layouts = property(lambda self: self.info.layouts)
    composable = property(lambda self: self.info.composable)
    entries = property(lambda self: self.info.entries)
    attention = property(lambda self: self.info.attention)

    def stem(self, images: Tensor) -> Tensor:
        """Compute what stage 1 takes, from images `(B, 3, S, S)`."""
        self._must_compose()
        return self.family.stem(self.net, self._adapted(images))

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Run stage `number` (1 to 4) on the feature of the stage before: `downsample`, then `blocks`."""
        return self.blocks(number, self.downsample(number, x))

    def downsample(self, number: int, x: Tensor) -> Tensor:
        """Compute what the first block of stage `number` takes: Swin merges patches here, the others do nothing."""
        self._must_compose(number)
        return self.family.downsample(self.net, number, x)

    def blocks(self, number: int, x: Tensor) -> Tensor:
        """Run stage `number` from its first block on."""
        self._must_compose(number)
        return self.family.blocks(self.net, number, x)

    def head(self, x: Tensor) -> Output:
        """Apply final norm, pooling and classifier to the stage-4 feature."""
        self._must_compose()
        pooled, logits = self.family.classify(self.net, self.family.final_norm(self.net, x))
        return Output(logits, pooled)

    def mean_head(self, patches: Tensor) -> Output:
        """Apply the head of a network with prefix tokens to patch tokens `(B, L, D)` alone: it reads their mean.

        The mean is taken after the final norm and stands in for the class token.
        """
        pooled, logits = self.family.classify(self.net, self._mean_patch(patches))
        return Output(logits, pooled)

    def mean_pooled(self, patches: Tensor) -> Tensor:
        """Return the `pooled` of `mean_head`, `(B, width)`, without running the classifier."""
        return self.family.pool(self.net, self._mean_patch(patches))

    def _mean_patch(self, patches: Tensor) -> Tensor:
        self._must_compose()
        mean = self.family.final_norm(self.net, patches).mean(1, keepdim=True)
        return mean.expand(-1, self.layouts[3].prefix + 1, -1)

    def forward(self, images: Tensor, stages: bool = False, preacts: bool = False, attention: bool = False) -> Output:
        """Run the network once on images `(B, 3, S, S)`; the arguments choose the fields of `Output`.

        Raises:
            UsageError: a network without stages is asked for them.
        """
        if (stages or preacts) and isinstance(self.layouts, NoStages):
            raise UsageError(self.layouts.reason)
        with contextlib.ExitStack() as hooks:
            before = hooks.enter_context(capture_preactivations(self.family, self.net)) if preacts else []
            last = self.family.attention(self.net) if attention else None
            projected = hooks.enter_context(capture_attention(last)) if last else []
            pooled, logits, features = self.family.outputs(self.net, self._adapted(images), stages or preacts)
        return Output(
            logits,
            pooled,
            features if stages else None,
            tuple(x if x is not None else stage for x, stage in zip(before, features)) if preacts else None,
            heads_of(last, projected[0], self.layouts[last.stage - 1].grid) if last else None,
        )

    def end_norms(self) -> tuple[nn.Module | None, ...]:
        """Return the batch norms just before the activations that the four stages end in; None for one without."""
        return tuple(self.family.last_activation(self.net, number).norm for number in (1, 2, 3, 4))

    def expect_input(self, images: Statistics, own: Statistics) -> None:
        """Take images normalised with `images` (mean, std per channel), and renormalise them to the network's `own`."""
        if images == own:
            self.input_scale = self.input_shift = None
            return
        (mean, std), (own_mean, own_std) = (torch.tensor(pair, dtype=torch.float64) for pair in (images, own))
        device = next(self.parameters()).device
        self.input_scale = (std / own_std).float().view(3, 1, 1).to(device)
        self.input_shift = ((mean - own_mean) / own_std).float().view(3, 1, 1).to(device)

    def _adapted(self, images: Tensor) -> Tensor:
        """Return images as the network takes them: resized, bicubic and antialiased as timm's, and renormalised."""
        if self.resizes and images.shape[-1] != self.image_size:
            size = self.image_size, self.image_size
            images = functional.interpolate(images, size, mode="bicubic", antialias=True)
        return images if self.input_scale is None else images * self.input_scale + self.input_shift

    def _must_compose(self, number: int = 1) -> None:
        if number not in (1, 2, 3, 4):
            raise UsageError(f"{self.name} has stages 1 to 4, and no stage {number}")
        if not self.composable:
            raise UsageError(
                f"{self.name} ({type(self.net).__name__}) cannot be run in parts; use a model of the zoo, or a timm "
                "model of one of its classes"
            )

    @torch.no_grad()
    def _must_agree(self) -> None:
        """Check on one image that the parts of a network of an unknown class give the logits of its own forward.

        One that fails is used as a whole; an adapter of the user's own that fails is an error. Without weights there is
        nothing to compare: a model on the meta device is taken as described.
        """
        size = self.image_size
        image = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size).to(next(self.parameters()))
        training, _ = self.training, self.eval()
        same = torch.equal(self(image, stages=True).logits, logits_of(self.net(image), self.net))
        if not same:
            reason = "its logits are not its classifier applied to its pooled feature"
            if not is_shipped(self.family):
                raise UsageError(f"{type(self.family).__name__} does not run {self.name} as its forward does: {reason}")
            self.info = inspect_whole(self.net, self.name, size, reason)
            self.family = WholeFamily(self.net, self.info.head)
        self.train(training)

    def stage_prefix(self) -> Tensor | None:
        """Return the prefix tokens a ViT starts with, position included: `(1, prefix, D)`; None if it has none."""
        prefix = self.layouts[0].prefix
        return self._positions()[:, :prefix] if prefix else None

    def patch_pos(self) -> Tensor | None:
        """Return a ViT's position embedding of the patches: `(1, L, D)`; None for networks that add none."""
        if getattr(self.net, "pos_embed", None) is None or not self.layouts[0].tokens:
            return None
        return self._positions()[:, self.layouts[0].prefix :]

    def _positions(self) -> Tensor:
        size = self.image_size
        weight = next(self.net.parameters())
        patches = self.net.patch_embed(weight.new_zeros(1, 3, size, size))
        return self.net._pos_embed(torch.zeros_like(patches))

    @property
    def classifier(self) -> nn.Module:
        """Return the layer that gives the logits; without parameters where it is not known."""
        if isinstance(self.family, WholeFamily):
            return nn.Identity() if self.family.head is None else self.net.get_submodule(self.family.head)
        return self.family.classifier(self.net)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm excludes from weight decay, named relative to this module."""
        listed = self.net.no_weight_decay() if hasattr(self.net, "no_weight_decay") else set()
        return {f"net.{name}" for name, _ in self.net.named_parameters() if name in listed}

    def export_state(self) -> dict[str, Tensor]:
        """Return the plain timm state dict, in the default memory layout."""
        return {name: value.contiguous() for name, value in self.net.state_dict().items()}

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Load a state dict of `export_state`."""
        self.net.load_state_dict(state)


def meta_model(name: str, num_classes: int, image_size: int = 224, split: str = "ofa") -> StagedModel:
    """Return a model that has shapes and no weights, for whoever counts or describes.

    Raises:
        UsageError: unknown name, a size the network cannot take, or a network that gives no four stages.
    """
    with torch.device("meta"), ContentFree():
        return StagedModel(name, num_classes, image_size, split=split)
