"""RKD: match distances between samples and angles among them, in the final feature space (Park et al., 2019).

    L   = label_weight * CE(z_s, y) + distance_weight * L_d + angle_weight * L_a
    L_d = mean_ij  huber(|s_i - s_j| / mu_s, |t_i - t_j| / mu_t)     mu: mean distance of two samples
    L_a = mean_ijk huber(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, t_k - t_i))
    huber: smooth L1 of threshold 1; the means run over all B^2 pairs and B^3 triples

s and t are what the two classifiers take; the widths may differ, as nothing but relations is compared. There is nothing
to train beside the student. Relations are those of the local batch of a process. The weights 25 and 50, the
un-squared distance and eps 1e-12 are those of the authors, of RepDistiller, of mdistiller and of OFA alike.

Paper and code: all codes average over every pair and triple, those of a sample with itself (0 on both sides)
included, and so does this one. Where two samples have the same feature, the released angle has a slope of 1e12; here
pairs closer than `apart` in either model take no part in it (0: as released). Features are centred before distances
are computed, and angles are computed for some anchors at a time, to save digits and memory; neither changes the
value.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cakdbench.method import Batch, Method, Step, mean_loss, tunable
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

APART = 1e-6
CHUNK = 2**24  # elements of the largest tensor when angles are computed, 64 MiB in float32


@force_fp32
def rkd_distance_loss(student: Tensor, teacher: Tensor, eps: float = 1e-12) -> Tensor:
    """`mean_ij huber(D_s / mu_s, D_t / mu_t)` of arXiv:1904.05068, as in RepDistiller.

    Args:
        student: `(B, d_s)`.
        teacher: `(B, d_t)`.
        eps: least squared distance.
    """
    return F.smooth_l1_loss(_relative_distances(student, eps), _relative_distances(teacher, eps))


@force_fp32
def rkd_angle_loss(student: Tensor, teacher: Tensor, apart: float = APART) -> Tensor:
    """`mean_ijk huber(A_s, A_t)` of arXiv:1904.05068, as in RepDistiller; shapes as `rkd_distance_loss`.

    Args:
        apart: least distance of two features that have a direction from one to the other; 0: all but equal ones.

    Anchors i are taken in chunks whose tensors stay below `CHUNK` elements, or one by one; with several chunks, each
    is computed again for its gradient.
    """
    batch = len(student)
    anchors = max(1, CHUNK // (batch * max(batch, student.shape[1], teacher.shape[1])))
    if anchors >= batch:
        return _angle_difference(student, teacher, slice(batch), apart) / batch**3
    chunks = [slice(start, start + anchors) for start in range(0, batch, anchors)]
    again = {"use_reentrant": False, "preserve_rng_state": False}
    return sum(checkpoint(_angle_difference, student, teacher, chunk, apart, **again) for chunk in chunks) / batch**3


def _relative_distances(x: Tensor, eps: float) -> Tensor:
    """Return the distances `(B, B)` of the rows, over the mean of those off the diagonal."""
    x = x - x.mean(0)
    square = x.square().sum(1)
    squares = square[:, None] + square - 2 * x @ x.T
    distances = squares.clamp(min=eps).sqrt() * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return distances * (len(x) * (len(x) - 1) / distances.sum())


def _angle_difference(student: Tensor, teacher: Tensor, anchors: slice, apart: float) -> Tensor:
    """Return the sum of huber over the triples of these anchors."""
    differences = [x - x[anchors, None] for x in (student, teacher)]
    lengths = [x.norm(dim=2, keepdim=True) for x in differences]
    near = (lengths[0] < apart) | (lengths[1] < apart)
    s, t = (x / length.masked_fill(near, torch.inf).clamp(min=1e-12) for x, length in zip(differences, lengths))
    return F.smooth_l1_loss(s @ s.mT, t @ t.mT, reduction="sum")


@register(
    "rkd",
    title="RKD",
    paper="Park et al., CVPR 2019",
    url="https://arxiv.org/abs/1904.05068",
    year=2019,
    kind="relations",
)
class RKD(Method):
    """Labels, and the distances and angles among the samples of a batch."""

    needs = frozenset({"pooled"})
    least_batch = 2
    several_teachers = "losses"

    @dataclass(frozen=True)
    class Config:
        """Defaults of every released code.

        Attributes:
            distance_weight: of the distances; 0 leaves them out.
            angle_weight: of the angles; 0 leaves them out.
            label_weight: of the label loss.
            eps: least squared distance of two samples.
            apart: pairs with less distance have no angles; 0: as released, with a slope of 1e12 at equal features.
        """

        distance_weight: float = field(default=25.0, metadata=tunable(0.025, 250, log=True))
        angle_weight: float = field(default=50.0, metadata=tunable(0.05, 500, log=True))
        label_weight: float = 1.0
        eps: float = 1e-12
        apart: float = APART

        def __post_init__(self):
            if self.eps <= 0 or self.apart < 0:
                raise ValueError(f"eps must be above 0 and apart at least 0, not {self.eps} and {self.apart}")

    variants = {
        "distance_only": {"angle_weight": 0.0},
        "angle_only": {"distance_weight": 0.0},
        "released": {"apart": 0.0},
    }

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images)
        pairs = [(student.pooled, teacher.pooled) for teacher in batch.teachers]
        losses = {"label": config.label_weight * batch.label_loss(student.logits)}
        if config.distance_weight:
            distances = mean_loss([rkd_distance_loss(*pair, config.eps) for pair in pairs])
            losses["rkd_distance"] = config.distance_weight * distances
        if config.angle_weight:
            angles = mean_loss([rkd_angle_loss(*pair, config.apart) for pair in pairs])
            losses["rkd_angle"] = config.angle_weight * angles
        return Step(student.logits, losses)
