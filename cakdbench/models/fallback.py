"""Stage features, without composition, for timm networks of any other class."""

from __future__ import annotations

from torch import Tensor, nn

from cakdbench.models.families import FAMILIES, isotropic_ends
from cakdbench.models.family import Family, Network
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


def _why_not(net: Network) -> str | None:
    if not hasattr(net, "forward_intermediates"):
        return "it has no forward_intermediates"
    if not hasattr(net, "get_classifier"):
        return "it has no classifier"
    if not isinstance(net.get_classifier(), nn.Module):
        return "it has more than one classifier"
    return None


def family_of(net: Network, split: str, name: str) -> Family:
    """Return the family of a timm network; one that is only tapped if its class cannot be cut open.

    Raises:
        UsageError: the network does not give four stage features.
    """
    family = FAMILIES.get(type(net))
    if family is not None and family.fits(net):
        return family(net, split)
    reason = _why_not(net)
    if reason is None:
        try:
            return IntermediatesFamily(net, split)
        except ValueError as error:
            reason = str(error)
    raise UsageError(f"{name} ({type(net).__name__}) cannot be used: {reason}")
