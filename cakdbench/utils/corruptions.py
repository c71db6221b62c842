"""Corruptions by name: the noises of ImageNet-C (Hendrycks & Dietterich, ICLR 2019), of its strengths or any other.

What they do to images is in `data/corruptions.py`; recipes, records and commands name them without waiting for torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cakdbench.utils.errors import UsageError, unknown

SEVERITIES: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
}
"""Kinds, and the strengths of ImageNet-C's severities 1 to 5: a deviation, photons at full white, a share of values."""
MOST = {"gaussian_noise": 1e3, "shot_noise": 1e9, "impulse_noise": 1.0}
"""Beyond it nothing changes any more, or nothing can be drawn."""


@dataclass(frozen=True, order=True)
class Corruption:
    """A kind of noise and its strength."""

    kind: str
    strength: float

    def __str__(self) -> str:
        return f"{self.kind}={repr(float(self.strength)).removesuffix('.0')}"

    @property
    def severity(self) -> int | None:
        """Return ImageNet-C's severity of this strength, 1 to 5; None if it has none."""
        strengths = SEVERITIES[self.kind]
        return strengths.index(self.strength) + 1 if self.strength in strengths else None


def parse_corruptions(texts: Iterable[str]) -> list[Corruption]:
    """Return what texts name, each once: KIND for all five severities, KIND:SEVERITY, or KIND=STRENGTH.

    Raises:
        UsageError: one names nothing.
    """
    return list(dict.fromkeys(made for text in texts for made in _parse(text.strip())))


def _parse(text: str) -> list[Corruption]:
    kind = text.partition("=")[0].partition(":")[0]
    if kind not in SEVERITIES:
        raise unknown("corruption", kind, SEVERITIES)
    strengths = SEVERITIES[kind]
    rest = text[len(kind) :]
    if not rest:
        return [Corruption(kind, strength) for strength in strengths]
    if rest[0] == ":":
        if rest[1:] not in map(str, range(1, len(strengths) + 1)):
            raise UsageError(f"{text!r}: severities are 1 to {len(strengths)}; {kind}=STRENGTH gives any strength")
        return [Corruption(kind, strengths[int(rest[1:]) - 1])]
    return [Corruption(kind, _strength(text, rest[1:], MOST[kind]))]


def _strength(text: str, number: str, most: float) -> float:
    try:
        strength = float(number)
    except ValueError:
        strength = float("nan")
    if not 0 < strength <= most:
        raise UsageError(f"{text!r}: give a strength above 0, at most {most:g}, as in gaussian_noise=0.1")
    return strength
