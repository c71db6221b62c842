"""The multi-view generator of PCA/GL: random views of normalised images, drawn on their device."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cakdbench.utils.precision import force_fp32


def draw_transforms(images: Tensor, chance: float, coin: str) -> Tensor:
    """Draw which images are cropped, rotated, jittered in colour and masked, as booleans `(4, B, 1, 1, 1)`.

    Args:
        images: `(B, 3, S, S)`.
        chance: of heads.
        coin: one for each `image`, which then gets all four or none, or one for each `transform` of each image.
    """
    count = 1 if coin == "image" else 4
    heads = torch.rand(count, len(images), 1, 1, 1, device=images.device) < chance
    return heads.expand(4, -1, -1, -1, -1)


@force_fp32
def geometric_view(images: Tensor, cropped: Tensor, rotated: Tensor, crop_area: float, rotation: float) -> Tensor:
    """Crop and enlarge, and rotate, images `(B, 3, S, S)` where the booleans `(B, 1, 1, 1)` say so.

    What lies outside the image is filled with the mean colour.
    """
    side = torch.where(cropped, _uniform(images, crop_area, 1).sqrt(), 1.0)
    angle = torch.where(rotated, _uniform(images, -rotation, rotation), 0.0).deg2rad()
    across, down = ((1 - side) * _uniform(images, -1, 1) for _ in range(2))
    cos, sin = side * angle.cos(), side * angle.sin()
    theta = torch.cat([cos, -sin, across, sin, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return torch.where(cropped | rotated, F.grid_sample(images, grid, align_corners=False), images)


@force_fp32
def photometric_view(
    images: Tensor, jittered: Tensor, covered: Tensor, jitter: float, mask_ratio: float, patch: int
) -> Tensor:
    """Jitter colours, and set patches to the mean colour, where `(B, 1, 1, 1)` booleans say so; images `(B, 3, S, S)`.

    The values are normalised ones: contrast and saturation are scaled by up to `1 +- jitter`, about the image's mean
    and the pixel's grey, and up to `+-jitter` (standard deviations) is added as brightness.
    """
    contrast, saturation = (_uniform(images, 1 - jitter, 1 + jitter) for _ in range(2))
    mean = images.mean((1, 2, 3), keepdim=True)
    x = mean + contrast * (images - mean) + _uniform(images, -jitter, jitter)
    grey = x.mean(1, keepdim=True)
    x = torch.where(jittered, grey + saturation * (x - grey), images)
    height, width = images.shape[2:]
    masked = torch.rand(len(x), 1, -(-height // patch), -(-width // patch), device=x.device) < mask_ratio
    masked = masked.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, :height, :width]
    return x.masked_fill(masked & covered, 0.0)


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw one number an image, `(B, 1, 1, 1)`."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device)
