"""Define a family of networks: the parts of a network, and the places to look into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

Network = Any
"""A network of timm: an `nn.Module` whose parts have the names of its class, which no type declares."""


class LastActivation(NamedTuple):
    """Point at the activation a stage ends in and the batch norm before it; None if it ends in something else."""

    activation: nn.Module | None = None
    norm: nn.Module | None = None


class LastAttention(NamedTuple):
    """Point at the last attention of a network that sees every patch from a fixed window.

    Attributes:
        stage: the stage it is in.
        module: with `qkv`, a linear map to the three of them, and `num_heads`.
        window: height and width of the windows that attend within themselves; None: all tokens to all.
    """

    stage: int
    module: Network
    window: tuple[int, int] | None = None


class Family:
    """Cut networks with NCHW maps; the other families override what differs."""

    kind = "cnn"
    composable = True
    tokens = False
    prefix = 0
    multiple = 1
    smallest = 32

    def __init__(self, net: Network, split: str = "ofa"):
        """Read the geometry off `net`; `split` matters to families whose blocks all look alike."""

    @classmethod
    def fits(cls, net: Network) -> bool:
        """Return True if this network of the family's class has the four stages."""
        return True

    def stem(self, net: Network, images: Tensor) -> Tensor:
        return net.stem(images)

    def downsample(self, net: Network, number: int, x: Tensor) -> Tensor:
        """Turn the feature of the stage before into what the first block of stage `number` takes."""
        return x

    def blocks(self, net: Network, number: int, x: Tensor) -> Tensor:
        """Run the rest of stage `number`."""
        return net.stages[number - 1](x)

    def last_activation(self, net: Network, number: int) -> LastActivation:
        """Return the activation that stage `number` ends in."""
        return LastActivation()

    def attention(self, net: Network) -> LastAttention | None:
        """Return the attention a method can look into, if there is one."""
        return None

    def final_norm(self, net: Network, x: Tensor) -> Tensor:
        """Apply the final norm, if there is one: timm's `forward_head` takes the result."""
        return x

    def run(self, net: Network, images: Tensor, stages: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the final feature, and the four stage features."""
        features = tuple(feature for _, feature in self.walk(net, images))
        return self.final_norm(net, features[-1]), features

    def walk(self, net: Network, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, stage by stage, what its first block takes, and its feature."""
        x = self.stem(net, images)
        for number in (1, 2, 3, 4):
            entered = self.downsample(net, number, x)
            x = self.blocks(net, number, entered)
            yield entered, x

    def pool(self, net: Network, final: Tensor) -> Tensor:
        """Return what the classifier takes `(B, D)`, of the final feature."""
        return net.forward_head(final, pre_logits=True)

    def classifier(self, net: Network) -> nn.Module:
        """Return the module that gives the logits, a linear map or a convolution of 1x1."""
        return net.get_classifier()

    def classify(self, net: Network, final: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled feature `(B, D)`, the exact vector the classifier consumes, and logits `(B, C)`."""
        pooled, classifier = self.pool(net, final), self.classifier(net)
        if isinstance(classifier, nn.Conv2d):
            return pooled, classifier(pooled[:, :, None, None]).flatten(1)
        return pooled, classifier(pooled)

    def outputs(self, net: Network, images: Tensor, stages: bool) -> tuple[Tensor | None, Tensor, tuple[Tensor, ...]]:
        """Return the pooled feature, the logits, and the four stage features if they are asked for."""
        final, features = self.run(net, images, stages)
        return *self.classify(net, final), features

    def grid(self, number: int, feature: Tensor) -> tuple[int, int]:
        """Return height and width of stage `number`'s feature."""
        height, width = feature.shape[-2:]
        return height, width


F = TypeVar("F", bound=type[Family])

FAMILIES: dict[type[nn.Module], type[Family]] = {}
"""By the class of the network."""


def family_for(network: type[nn.Module]) -> Callable[[F], F]:
    """Enter a Family, as a class decorator, as what cuts networks of a class into stem, four stages and head."""

    def enter(family: F) -> F:
        FAMILIES[network] = family
        return family

    return enter
