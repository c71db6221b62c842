"""Maps over an image: how strong a network's features are where, and where its last attention looks."""

import pandas as pd
import torch
from torch import Tensor

from cakdbench.method import Attention
from cakdbench.models.info import NoStages
from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import UsageError


@torch.no_grad()
def feature_maps(model: StagedModel, images: Tensor, groups: int = 1) -> dict[str, Tensor]:
    """Return the strength of each stage's feature: the mean absolute value over the channels of a group.

    Args:
        images: `(B, 3, S, S)`, normalised.
        groups: as many runs of neighbouring channels, each with a map of its own.

    Returns:
        `(B, groups, H, W)` by stage, on the stage's own grid.

    Raises:
        UsageError: the network has no stages, or a stage's channels cannot be divided so.
    """
    if isinstance(model.layouts, NoStages):
        raise UsageError(f"{model.name} has no stages to draw: {model.layouts.reason}")
    stages = model(images, stages=True).stages
    return {
        f"stage {number}": _strength(layout.to_map(x), groups)
        for number, (layout, x) in enumerate(zip(model.layouts, stages), 1)
    }


def _strength(x: Tensor, groups: int) -> Tensor:
    if not 1 <= groups <= x.shape[1]:
        raise UsageError(f"{groups} groups of {x.shape[1]} channels: give 1 to {x.shape[1]}")
    return torch.stack([part.abs().mean(1) for part in x.float().tensor_split(groups, dim=1)], dim=1)


@torch.no_grad()
def attention_maps(model: StagedModel, images: Tensor) -> Tensor:
    """Return how much of the last attention each position receives, averaged over heads `(B, H, W)`.

    Of a network with a class token it is the attention of that token; of others the mean over all positions. Each map
    sums to the attention that goes to patches, at most 1. Swin's last block whose windows are not shifted is taken.

    Args:
        images: `(B, 3, S, S)`, normalised.

    Raises:
        UsageError: the network has no attention that can be looked into.
    """
    layout = model.attention
    if layout is None:
        raise UsageError(
            f"{model.name} has no attention: name a ViT, DeiT or Swin, or a run, made with --keep modules, of a method "
            "that has its own"
        )
    q, k, _ = model(images, attention=True).attention
    stage = model.layouts[layout.stage - 1]
    scores = q.float() @ k.float().mT / q.shape[-1] ** 0.5
    if layout.window:
        scores = scores.masked_fill(~_same_window(stage.grid, layout.window).to(scores.device), -torch.inf)
    weights = scores.softmax(-1).mean(1)
    has_class_token = getattr(model.net, "cls_token", None) is not None  # registers come without one too
    received = weights[:, 0] if has_class_token else weights[:, stage.prefix :].mean(1)
    return received[:, stage.prefix :].unflatten(1, stage.grid)


def received_maps(attention: Attention) -> dict[str, Tensor]:
    """Return what each place receives, by feature, the mean over heads and all places `(B, H, W)`.

    The maps of one image sum to 1 over all features.
    """
    received = attention.weights.mean((1, 2))
    parts = received.split([rows * columns for rows, columns in attention.grids.values()], dim=1)
    return {name: part.unflatten(1, grid) for (name, grid), part in zip(attention.grids.items(), parts)}


def attention_flow(attention: Attention) -> pd.DataFrame:
    """Return the share of its attention that a feature's places give to another's: a row sums to 1.

    Mean over images, heads and places; rows are the features that look, columns those that are looked at.
    """
    sizes = [rows * columns for rows, columns in attention.grids.values()]
    rows = attention.weights.mean((0, 1)).split(sizes)
    shares = [[float(part.sum(1).mean()) for part in row.split(sizes, dim=1)] for row in rows]
    names = list(attention.grids)
    return pd.DataFrame(shares, pd.Index(names, name="from"), pd.Index(names, name="to"))


def _same_window(grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Return which positions of a grid lie in one window `(H*W, H*W)`."""
    rows, columns = (torch.arange(size) // width for size, width in zip(grid, window))
    number = (rows[:, None] * len(columns) + columns).flatten()
    return number[:, None] == number
