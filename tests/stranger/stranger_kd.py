"""Stranger: match the teacher's centred logits (nobody, 2026).

L = CE(z_s, y) + weight * mean((z_s - mean_c z_s - z_t + mean_c z_t)^2)
"""

from dataclasses import dataclass

from torch import Tensor

from cakdbench.method import Batch, Method, Step
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


@force_fp32
def centred_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two logits `(B, C)`, each centred over the classes."""
    return (student - teacher - (student - teacher).mean(1, keepdim=True)).square().mean()


@register("stranger", title="Stranger", paper="nobody, 2026", url="", year=2026, kind="logits")
class Stranger(Method):
    """Labels plus centred logits."""

    @dataclass(frozen=True)
    class Config:
        """Attributes:
        weight: of the loss.
        """

        weight: float = 1.0

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        loss = self.config.weight * centred_loss(logits, batch.teacher.logits)
        return Step(logits, {"label": batch.label_loss(logits), "centred": loss})
