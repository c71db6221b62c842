"""The modules of FOFA: region-aware attention, the aligners to the teacher's shapes, and the prompts.

`official` everywhere: compute as the released code does where it is in error (see `fofa`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.models.staged import Layout, to_map, to_tokens

REDUCTION = 16  # of the squeeze-and-excitation blocks, in the released code
GROUPS = 4  # of the prompts' outer convolutions


def patches_of(x: Tensor, layout: Layout, official: bool = False) -> Tensor:
    """Return a feature as a map `(B, C, H, W)`; `official` drops the last tokens as prefix, not the first."""
    last = official and layout.tokens and layout.prefix
    return to_map(x[:, : -layout.prefix], layout.grid) if last else layout.to_map(x)


def sinusoids(count: int, dim: int, device: torch.device | None = None) -> Tensor:
    """`(count, dim)`: sines (even columns) and cosines (odd) of the row number at falling frequencies."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class Projector(nn.Module):
    """A student's stage feature to `side * side` tokens `(B, side^2, dim)`, one for each region of the image."""

    def __init__(self, layout: Layout, side: int, dim: int, official: bool = False):
        super().__init__()
        self.layout, self.official = layout, official
        kernel = tuple(math.ceil(length / side) for length in layout.grid)
        self.size = tuple(k * side for k in kernel)
        self.embed = nn.Conv2d(layout.channels, dim, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = patches_of(x, self.layout, self.official)
        return to_tokens(self.embed(F.interpolate(x, self.size) if x.shape[-2:] != self.size else x))


class RegionAttention(nn.Module):
    """The four stages' region tokens attend to each other; features of four stages to four `(B, n_q / 4, dim)`.

    There is no residual and no output projection. `attend=False` leaves the projectors' tokens as they are.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        n_q: int,
        dim: int = 512,
        heads: int = 8,
        attend: bool = True,
        official: bool = False,
    ):
        super().__init__()
        side = math.isqrt(n_q // 4)
        self.heads, self.attend, self.official = heads, attend, official
        self.projectors = nn.ModuleList(Projector(layout, side, dim, official) for layout in layouts)
        if attend:
            self.norm = nn.LayerNorm(dim)
            self.to_q = nn.Linear(dim, dim)
            self.to_kv = nn.Linear(dim, 2 * dim)

    def forward(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        tokens = self.tokens(features)
        return self.mix(torch.cat(tokens, 1)).chunk(4, 1) if self.attend else tokens

    def tokens(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Cut the features of four stages into regions, four `(B, n_q / 4, dim)`."""
        return [project(x) for project, x in zip(self.projectors, features, strict=True)]

    def mix(self, x: Tensor) -> Tensor:
        """Attend with several heads over the tokens `(B, n_q, dim)`; queries and keys know their position."""
        return F.scaled_dot_product_attention(*self._heads(x)).transpose(1, 2).flatten(2)

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each of the tokens takes from each in `mix`, `(B, heads, n_q, n_q)`."""
        query, key, _ = self._heads(x)
        return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)

    def _heads(self, x: Tensor) -> list[Tensor]:
        """Return queries, keys and values `(B, heads, n_q, d)`."""
        x = self.norm(x)
        query, (key, value) = self.to_q(x), self.to_kv(x).chunk(2, 2)
        # the released code numbers the samples of the batch instead of the tokens
        place = sinusoids(len(x) if self.official else x.shape[1], x.shape[2], x.device).to(query.dtype)
        place = place[:, None] if self.official else place
        return [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (query + place, key + place, value)]


class TokenAligner(nn.Module):
    """Region tokens `(B, n, dim)` to the patches of a teacher's token stage, as a map `(B, C, H, W)`."""

    def __init__(self, count: int, dim: int, layout: Layout):
        super().__init__()
        self.grid = layout.grid
        self.widen = nn.Sequential(nn.BatchNorm1d(count), nn.Linear(dim, layout.channels))
        self.spread = nn.Sequential(nn.BatchNorm1d(layout.channels), nn.Linear(count, math.prod(layout.grid)))

    def forward(self, x: Tensor) -> Tensor:
        return self.spread(self.widen(x).transpose(1, 2)).unflatten(2, self.grid)


class MapAligner(nn.Module):
    """A map `(B, width, h, w)`, or tokens of a square map, to the channels and grid of another map."""

    def __init__(self, width: int, layout: Layout):
        super().__init__()
        self.grid = layout.grid
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, layout.channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = to_map(x, (math.isqrt(x.shape[1]),) * 2)
        return self.conv(self.norm(F.interpolate(x, self.grid)))


def aligner(count: int, dim: int, layout: Layout) -> nn.Module:
    """Make the aligner from `count` region tokens to the map of a teacher's stage."""
    return TokenAligner(count, dim, layout) if layout.tokens else MapAligner(dim, layout)


class SqueezeExcite(nn.Module):
    """Channels weighed by a gate that sees their means; `official` returns the gate `(B, C, 1, 1)` alone."""

    def __init__(self, channels: int, official: bool = False):
        super().__init__()
        self.official = official
        self.squeeze = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.excite = nn.Conv2d(channels // REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return gate if self.official else x * gate


class Prompt(nn.Module):
    """Adaptive feedback prompt before a teacher's stage: `x + scale * prompt(fuse(x, feedback))`.

    Args:
        entry: layout of what the stage's first block takes, `x`.
        layout: of the stage's output, which is that of the feedback.
        feedback: False if there never is any; without, `x + scale * prompt(x)`, as in a run's first step.
    """

    def __init__(self, entry: Layout, layout: Layout, feedback: bool = True, official: bool = False):
        super().__init__()
        c, self.entry, self.official = entry.channels, entry, official
        if feedback:
            same = (layout.channels, layout.grid) == (c, entry.grid)
            self.fit = nn.Identity() if same else MapAligner(layout.channels, entry)
            self.fuse = nn.Sequential(
                nn.Conv2d(2 * c, c, 1),
                nn.Conv2d(c, c, 5, padding=2),
                nn.Conv2d(c, c, 1),
                SqueezeExcite(c, official),
                nn.Conv2d(c, c, 1),
            )
        self.prompt = nn.Sequential(
            nn.Conv2d(c, c, 1, groups=GROUPS),
            nn.Conv2d(c, c, 5, padding=2, groups=c),
            nn.Conv2d(c, c, 1),
            SqueezeExcite(c, official),
            nn.Conv2d(c, c, 1, groups=GROUPS),
        )
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, feedback: Tensor | None = None) -> Tensor:
        """`x` of layout `entry` to the same; `feedback` is a map of the stage's output."""
        patches = patches_of(x, self.entry, self.official)
        fused = patches if feedback is None else self.fuse(torch.cat([patches, self.fit(feedback)], 1))
        return self._restore(patches + self.scale * self.prompt(fused), x)

    def _restore(self, patches: Tensor, x: Tensor) -> Tensor:
        """Return the map in the form of `x`, the prefix tokens put back where `patches_of` found them."""
        if not self.entry.tokens:
            return patches
        if not self.official:
            return self.entry.to_tokens(patches, self.entry.prefix_of(x))
        count, width = math.prod(self.entry.grid), self.entry.channels
        # the released code reads the map (B, C, H, W) as (B, H*W, C) without moving its axes
        return torch.cat([patches.reshape(-1, count, width), x[:, count:]], 1)
