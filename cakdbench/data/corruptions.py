"""Corrupt test images with the noises that `utils/corruptions.py` names.

The noise of an image is a function of its place in the test set, the kind and the strength: every model sees the same.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cakdbench.utils.corruptions import Corruption
from cakdbench.utils.rng import derive

Noise = Callable[[np.ndarray, float, np.random.RandomState], np.ndarray]
"""Maps an image with values from 0 to 1 to a corrupted one, which is clipped afterwards."""


def _gaussian(image: np.ndarray, strength: float, draw: np.random.RandomState) -> np.ndarray:
    return image + draw.normal(size=image.shape, scale=strength)


def _shot(image: np.ndarray, strength: float, draw: np.random.RandomState) -> np.ndarray:
    return draw.poisson(image * strength) / strength


def _impulse(image: np.ndarray, strength: float, draw: np.random.RandomState) -> np.ndarray:
    hit, white = draw.random_sample((2, *image.shape))
    return np.where(hit < strength, (white < 0.5).astype(float), image)


NOISES: dict[str, Noise] = {"gaussian_noise": _gaussian, "shot_noise": _shot, "impulse_noise": _impulse}


def corrupt(corruption: Corruption, images: Tensor, index: Tensor) -> Tensor:
    """Return uint8 images `(B, 3, S, S)` corrupted; `index` `(B,)` are their places in the test set."""
    return torch.stack([_one(corruption, image, int(place)) for image, place in zip(images, index)])


def _one(corruption: Corruption, image: Tensor, place: int) -> Tensor:
    draw = np.random.RandomState(derive("corruption", str(corruption), place) % 2**32)
    noisy = NOISES[corruption.kind](image.numpy() / 255, corruption.strength, draw)
    return torch.from_numpy((noisy.clip(0, 1) * 255).round().astype(np.uint8))
