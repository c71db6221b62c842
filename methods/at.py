"""AT: match where teacher and student are active, stage by stage (Zagoruyko & Komodakis, 2017).

    L = label_weight * CE(z_s, y)
        + weight * sum_i mean((Q(F_i^s) - Q(F_i^t))^2)
    Q(F) = mean_c F_c^p as a vector over the positions, divided by its length

The mean runs over samples and positions. The larger of two maps is first averaged to the smaller grid. Tokens become
maps without their prefix tokens. Nothing is trained besides the student, and widths need not agree.

Defaults are those of RepDistiller and mdistiller: weight 1000 and p = 2 on all stages.

Paper and code: the paper sums over the channels, which the division makes the same, and adds the Euclidean length of
the difference where all code bases, the authors' too, add its square. Its weight is 1000 / 2 over the number of
positions (variant `paper_form`). It takes |F|^p, the code F^p; they differ for odd p alone (`absolute`). KD-Zoo
averages over the stages (variant `kd_zoo`). The mean over positions gives deep stages, with few of them, the larger
part of the loss; it is kept. In a transformer's stages, a few channels of large values shape the whole map, since
nothing normalises them.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


def attention_map(feature: Tensor, p: int = 2, absolute: bool = False) -> Tensor:
    """Return Q of a map `(B, C, H, W)`: vectors `(B, H*W)` of length 1; zeros stay zeros."""
    feature = feature.abs() if absolute else feature
    return F.normalize(feature.pow(p).mean(1).flatten(1))


@force_fp32
def at_loss(
    student_map: Tensor, teacher_map: Tensor, p: int = 2, form: str = "squared", absolute: bool = False
) -> Tensor:
    """Return the distance of two normalised attention maps over the number of positions, mean over the batch.

    `squared`, as in the authors' code, RepDistiller and mdistiller: `mean_{b,x} (Q_s - Q_t)^2`. `norm`, eq. 2 of
    arXiv:1612.03928: `mean_b ||Q_s - Q_t|| / (H*W)`.

    Args:
        student_map: `(B, C_s, H_s, W_s)`.
        teacher_map: `(B, C_t, H_t, W_t)`.
    """
    grid = tuple(map(min, student_map.shape[2:], teacher_map.shape[2:]))
    student, teacher = (_shrunk(x, grid) for x in (student_map, teacher_map))
    difference = attention_map(student, p, absolute) - attention_map(teacher, p, absolute)
    if form == "squared":
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean() / difference.shape[1]


def _shrunk(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    return x if x.shape[2:] == grid else F.adaptive_avg_pool2d(x, grid)


@register(
    "at",
    title="AT",
    paper="Zagoruyko & Komodakis, ICLR 2017",
    url="https://arxiv.org/abs/1612.03928",
    year=2017,
    kind="features",
)
class AT(Method):
    """Labels, and the teacher's attention maps: how strong its stage features are at each position."""

    needs = frozenset({"stages"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of RepDistiller and mdistiller.

        Attributes:
            weight: of the sum over the stages.
            label_weight: of the label loss.
            p: power that the feature is raised to.
            absolute: take |F|^p instead of F^p, which differ for odd p.
            stages: whose maps are matched.
            form: of `at_loss`, `squared` as in the code or `norm` as printed.
            reduction: over the stages, `sum`, or `mean` as in KD-Zoo.
        """

        weight: float = field(default=1000.0, metadata=tunable(1, 10000, log=True))
        label_weight: float = 1.0
        p: int = 2
        absolute: bool = False
        stages: tuple[int, ...] = (1, 2, 3, 4)
        form: Literal["squared", "norm"] = "squared"
        reduction: Literal["sum", "mean"] = "sum"

        def __post_init__(self):
            check_choices(self)
            if self.p < 1:
                raise ValueError(f"p must be at least 1, not {self.p}")
            if not self.stages or not set(self.stages) <= {1, 2, 3, 4} or len(set(self.stages)) < len(self.stages):
                raise ValueError(f"stages must be some of 1, 2, 3, 4, at least one and each once, not {self.stages}")

    variants = {
        "paper_form": {"form": "norm", "absolute": True, "weight": 500.0},
        "kd_zoo": {"reduction": "mean", "absolute": True},
        "p_1": {"p": 1, "absolute": True},
        "p_4": {"p": 4},
        **{f"stage_{i}": {"stages": (i,)} for i in (1, 2, 3, 4)},
    }

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images, stages=True)
        weight = config.weight / (len(config.stages) if config.reduction == "mean" else 1)
        losses = {"label": config.label_weight * batch.label_loss(student.logits)}
        for i in config.stages:
            learned = self.student.layouts[i - 1].to_map(student.stages[i - 1])
            target = self.teacher.layouts[i - 1].to_map(batch.teacher.stages[i - 1])
            losses[f"at_{i}"] = weight * at_loss(learned, target, config.p, config.form, config.absolute)
        return Step(student.logits, losses)
