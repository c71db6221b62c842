"""What networks of any other class give: stage features, without composition, or logits alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from cakdbench.models.families import isotropic_ends
from cakdbench.models.family import FAMILIES, Family, Network
from cakdbench.utils.errors import UsageError

_MARKS = ("num_heads", "qkv", "qkv_proj")


class IntermediatesFamily(Family):
    """Four of the maps that timm's `forward_intermediates` gives."""

    composable = False
    smallest = 1

    def __init__(self, net: Network, split: str = "ofa"):
        self.taps = list(_taps([info["reduction"] for info in net.feature_info], split))
        self.kind = "msa" if _attends(net) else "cnn"

    def run(self, net: Network, images: Tensor, stages: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not stages:
            return net.forward_features(images), ()
        final, features = net.forward_intermediates(images, indices=self.taps)
        return final, tuple(features)


def _taps(reductions: list[int], split: str) -> tuple[int, ...]:
    """Return the intermediates that stand for the four stages: the last ones of the four lowest resolutions."""
    last = {reduction: index for index, reduction in enumerate(reductions)}
    if len(last) == 1 and len(reductions) >= 4:
        return isotropic_ends(len(reductions), split)
    if len(reductions) == 4:
        return 0, 1, 2, 3
    if len(last) < 4:
        raise ValueError(f"it gives features at {len(last)} resolutions, and four stages are needed")
    return tuple(last[reduction] for reduction in sorted(last)[-4:])


def _attends(net: Network) -> bool:
    """Return True if tokens attend to each other in the body; attention pooling in a head does not count.

    timm's token-mixing MLPs are all of the `MlpMixer` class, which is cut open; what is left is convolutional.
    """
    return any(
        isinstance(module, nn.MultiheadAttention) or any(hasattr(module, mark) for mark in _MARKS)
        for module in net.modules()
        if "Pool" not in type(module).__name__
    )


class WholeFamily(Family):
    """The logits of any network, and what its last layer takes, without stages.

    Args:
        head: the name of the module that gives the logits; None for a network that makes them of several.
    """

    composable = False
    smallest = 1

    def __init__(self, net: Network, head: str | None):
        self.kind = "msa" if _attends(net) else "cnn"
        self.head = head

    def outputs(self, net: Network, images: Tensor, stages: bool) -> tuple[Tensor | None, Tensor, tuple[Tensor, ...]]:
        with _capture([] if self.head is None else [net.get_submodule(self.head)]) as calls:
            logits = logits_of(net(images), net)
        return (calls[0][1].flatten(1) if calls else None), logits, ()


@contextlib.contextmanager
def _capture(modules: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Collect, inside the block, modules, inputs and outputs of calls."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        m.register_forward_hook(lambda module, inputs, out: calls.append((module, inputs[0], out))) for m in modules
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def logits_of(given: Any, net: Network) -> Tensor:
    """Return the logits `(B, C)` in what a network gives; of several heads the mean, as timm takes it in evaluation.

    Raises:
        UsageError: there are none.
    """
    given = getattr(given, "logits", given)
    if isinstance(given, tuple | list) and len({getattr(x, "shape", None) for x in given}) == 1:
        given = sum(given) / len(given)
    if not isinstance(given, Tensor) or given.ndim != 2:
        form = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise UsageError(f"the forward of {type(net).__name__} gives {form}: let it return logits (B, classes)")
    return given


def find_head(net: Network, images: Tensor) -> tuple[Tensor, int, str | None]:
    """Return the logits of a network, and width and name of the layer that they are the output of; 0, None without."""
    layers: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    with _capture(layers) as calls:
        logits = logits_of(net(images), net)
    for module, pooled, out in calls:
        if logits is out or (out.ndim == 4 and logits._base is out):
            once = sum(module is called for called, _, _ in calls) == 1
            if once and pooled.flatten(1).shape == pooled.shape[:2]:
                return logits, pooled.shape[1], layers[module]
    return logits, 0, None


def family_of(net: Network, split: str) -> Family | str:
    """Return the family of a network, only tapped if its class cannot be cut open; or why it has no stages."""
    family = FAMILIES.get(type(net))
    if family is not None and family.fits(net):
        return family(net, split)
    if not hasattr(net, "forward_intermediates"):
        return "it has no forward_intermediates, and no adapter (`family_for`) cuts it"
    if not isinstance(net.get_classifier(), nn.Module):
        return "it has more than one classifier"
    try:
        return IntermediatesFamily(net, split)
    except ValueError as error:
        return str(error)
