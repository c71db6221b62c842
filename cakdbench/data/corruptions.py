"""Corrupt test images with the noises of ImageNet-C (Hendrycks & Dietterich, ICLR 2019), of its strengths or any other.

The noise of an image is a function of its place in the test set, the kind and the strength: every model sees the same.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cakdbench.utils.errors import UsageError, unknown
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


KINDS: dict[str, tuple[Noise, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse, (0.03, 0.06, 0.09, 0.17, 0.27)),
}
"""Kinds, and the strengths of ImageNet-C's severities 1 to 5: a deviation, photons at full white, a share of values."""


@dataclass(frozen=True)
class Corruption:
    """A kind of noise and its strength; `severity` is 1 to 5 where the strength is one of ImageNet-C's."""

    kind: str
    strength: float
    severity: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}={self.strength:g}"

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Return uint8 images `(B, 3, S, S)` corrupted; `index` `(B,)` are their places in the test set."""
        return torch.stack([self._one(image, int(place)) for image, place in zip(images, index)])

    def _one(self, image: Tensor, place: int) -> Tensor:
        draw = np.random.RandomState(derive("corruption", str(self), place) % 2**32)
        noisy = KINDS[self.kind][0](image.numpy() / 255, self.strength, draw)
        return torch.from_numpy((noisy.clip(0, 1) * 255).round().astype(np.uint8))


def parse_corruptions(texts: Iterable[str]) -> list[Corruption]:
    """Return what texts name: KIND for all five severities, KIND:SEVERITY, or KIND=STRENGTH.

    Raises:
        UsageError: one names nothing.
    """
    return list(dict.fromkeys(made for text in texts for made in _parse(text)))


def _parse(text: str) -> list[Corruption]:
    kind = text.partition("=")[0].partition(":")[0]
    if kind not in KINDS:
        raise unknown("corruption", kind, KINDS)
    strengths = KINDS[kind][1]
    rest = text[len(kind) :]
    if not rest:
        return [Corruption(kind, strength, severity) for severity, strength in enumerate(strengths, 1)]
    if rest[0] == ":":
        if rest[1:] not in map(str, range(1, len(strengths) + 1)):
            raise UsageError(f"{text!r}: severities are 1 to {len(strengths)}; {kind}=STRENGTH gives any strength")
        return [Corruption(kind, strengths[int(rest[1:]) - 1], int(rest[1:]))]
    return [Corruption(kind, _strength(text, rest[1:]))]


def _strength(text: str, number: str) -> float:
    try:
        strength = float(number)
    except ValueError:
        strength = float("nan")
    if not 0 < strength < float("inf"):
        raise UsageError(f"{text!r}: give a strength above 0, as in gaussian_noise=0.1")
    return strength
