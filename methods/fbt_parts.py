"""The module that FBT puts between two networks, and how the back runs a second time in a step."""

import contextlib
from collections.abc import Iterator

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.models.staged import Layout


class L2G(nn.Module):
    """Patch embedding and one attention block, from a front's stage to the entry of a back's stage.

    Args:
        front: layout of the feature that comes in.
        back: layout of the feature the back's stage `back_j` takes, that is of its stage before.
        block: `swin` (one Swin-V2 block, no shift), `swin_v1`, `vit` or `none`.
        prefix: `(1, P, D)`, initial value of the prefix tokens it owns for the back, if it owns any.
    """

    no_decay = ("prefix", "block.attn.logit_scale", "block.attn.cpb_mlp", "block.attn.relative_position_bias_table")

    def __init__(
        self,
        front: Layout,
        back: Layout,
        block: str = "swin",
        heads: int = 8,
        window: int = 7,
        prefix: Tensor | None = None,
    ):
        super().__init__()
        self.front, self.grid = front, back.grid
        self.divides = all(side % goal == 0 for side, goal in zip(front.grid, back.grid))
        kernel = tuple(side // goal for side, goal in zip(front.grid, back.grid)) if self.divides else 1
        self.patch_embed = nn.Conv2d(front.channels, back.channels, kernel, kernel)
        self.block = _attention(block, back, heads, window)
        self.prefix = None if prefix is None else nn.Parameter(prefix.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map the front's feature to tokens `(B, H*W, D)` of the back, without prefix."""
        x = self.patch_embed(self._fit(self.front.to_map(x)))
        return self.block(x.permute(0, 2, 3, 1)).reshape(len(x), -1, x.shape[1])

    def _fit(self, x: Tensor) -> Tensor:
        """Bring a grid the patch embedding cannot divide to the back's: up bilinearly, down by averaging."""
        if self.divides:
            return x
        if x.shape[-2] < self.grid[0] or x.shape[-1] < self.grid[1]:
            return F.interpolate(x, self.grid, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(x, self.grid)


def _attention(block: str, layout: Layout, heads: int, window: int) -> nn.Module:
    if block == "swin":
        return SwinTransformerV2Block(layout.channels, layout.grid, heads, window)
    if block == "swin_v1":
        return SwinTransformerBlock(layout.channels, layout.grid, heads, window_size=window)
    if block == "vit":
        return nn.Sequential(nn.Flatten(1, 2), Block(layout.channels, heads, qkv_bias=True))
    return nn.Identity()


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch inside the block, as in training, but not record it."""
    norms = [m for m in model.modules() if getattr(m, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
