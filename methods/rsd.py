"""RSD: make the dimensions of the student's feature follow the teacher's, one to one (Zhang et al., 2025).

    L   = label_weight * CE(z_s, y) + weight * L_r
    L_r = sum_i (1 - C_ii)^2 + kappa * sum_{i != j} C_ij^2
    C   = Z(g(f_s))^T Z(f_t) / B                        (d_t, d_t), cross-correlation over the local batch
    Z   : every dimension less its batch mean, over sqrt(batch variance + eps)
    g   : Linear(d_s, expansion * d_s) - BatchNorm - ReLU - Linear(expansion * d_s, d_t)

f are the features that the classifiers take. The diagonal makes what the two architectures share invariant, the rest
suppresses what is redundant; g keeps what is peculiar to the student's architecture out of the comparison, and is
dropped after training. No logits are matched. Weight 0.1, kappa 0.01 and expansion 2 are taken from the paper.

Paper and code: written from the paper. Our reading, following Barlow Twins where the paper is silent: the sum over the
matrix (`reduction=mean` divides it by d_t), the biased variance, eps 1e-5 under the root, the local batch, and
Linear layers without bias, which the normalisation after each of them would cancel.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


@force_fp32
def rsd_loss(
    student: Tensor, teacher: Tensor, kappa: float = 0.01, reduction: str = "sum", eps: float = 1e-5
) -> Tensor:
    """`sum_i (1 - C_ii)^2 + kappa * sum_{i != j} C_ij^2` of arXiv:2507.21844; `mean` divides by D.

    Args:
        student: `(B, D)`, projected.
        teacher: `(B, D)`.
        eps: added to the variances.
    """
    correlation = _standardize(student, eps).T @ _standardize(teacher, eps) / len(student)
    diagonal = correlation.diagonal()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    loss = (1 - diagonal).square().sum() + kappa * redundancy
    return loss / len(diagonal) if reduction == "mean" else loss


def _standardize(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt()


@register(
    "rsd",
    title="RSD",
    paper="Zhang et al., ICCV 2025",
    url="https://arxiv.org/abs/2507.21844",
    year=2025,
    kind="features",
)
class RSD(Method):
    """Labels, and the cross-correlation of a projection of the student's final feature with the teacher's."""

    needs = frozenset({"pooled"})
    least_batch = 2

    @dataclass(frozen=True)
    class Config:
        """Defaults of the paper where it speaks, else of Barlow Twins.

        Attributes:
            weight: of the distillation loss.
            kappa: weight of the elements off the diagonal.
            expansion: hidden width of the projector, in widths of the student's feature.
            reduction: `sum` over the matrix, or the same divided by the teacher's width (`mean`).
            label_weight: of the label loss.
            eps: added to the variances.
        """

        weight: float = field(default=0.1, metadata=tunable(0.0001, 1, log=True))
        kappa: float = field(default=0.01, metadata=tunable(1e-05, 0.1, log=True))
        expansion: int = 2
        reduction: Literal["sum", "mean"] = "sum"
        label_weight: float = 1.0
        eps: float = 1e-5

        def __post_init__(self):
            check_choices(self)
            if min(self.weight, self.eps) <= 0:
                raise ValueError("weight and eps must be above 0")
            if self.kappa < 0 or self.expansion < 1:
                raise ValueError("kappa must be at least 0, and expansion at least 1")

    variants = {
        "mean": {"reduction": "mean"},
        "invariance_only": {"kappa": 0.0},
        **{f"expansion_{n}": {"expansion": n} for n in (1, 4)},
    }

    def build(self) -> None:
        """Make the projector that decouples the architectures."""
        width, hidden = self.student.width, self.config.expansion * self.student.width
        self.projector = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.teacher.width, bias=False),
        )

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images)
        pair = self.projector(student.pooled), batch.teacher.pooled
        distilled = rsd_loss(*pair, config.kappa, config.reduction, config.eps)
        label = config.label_weight * batch.label_loss(student.logits)
        return Step(student.logits, {"label": label, "rsd": config.weight * distilled})
