"""DKD: match the target class and the other classes with weights of their own (Zhao et al., 2022).

    L    = label_weight * CE(z_s, y) + weight * ramp * T^2 * mean_b(alpha * TCKD + beta * NCKD)
    TCKD = KL(b_t || b_s)     with b = (p_y, 1 - p_y), p = softmax(z / T)
    NCKD = KL(q_t || q_s)     with q = softmax(z / T) over the classes other than y
    ramp = min(epoch / warmup, 1)     counting epochs from 1

KD is alpha = 1 with each sample's NCKD weighed by 1 - p_y of the teacher. Defaults are the arguments of OFA's released
code, for CIFAR-100 and ImageNet alike; the authors' own numbers (mdistiller) are variants. Under mixup and cutmix,
y is the most probable class of the mixed label.

Paper and code: the formulas agree. The DKD class of OFA's code stops with an AttributeError, as it reads its numbers
under names that do not exist; so OFA's published DKD rows come from unreleased code, and whether that had a warm-up is
not known (none here). mdistiller takes logs of summed probabilities, which can underflow; here the same value is
computed from logsumexp. mdistiller counts epochs from 1, so its warm-up of 1 on ImageNet is none.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, tunable
from cakdbench.methods.kd import kd_loss
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


@force_fp32
def tckd_loss(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 * mean_b KL(b_t || b_s)` of the target class against all others, arXiv:2203.08679.

    Args:
        student_logits: `(B, C)`.
        teacher_logits: `(B, C)`.
        target: `(B,)` class indices.
    """
    student, teacher = (_log_target(z / temperature, target) for z in (student_logits, teacher_logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@force_fp32
def nckd_loss(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 * mean_b KL(q_t || q_s)` among the other classes, arXiv:2203.08679; shapes as `tckd_loss`."""
    return kd_loss(_others(student_logits, target), _others(teacher_logits, target), temperature)


@force_fp32
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
) -> Tensor:
    """`T^2 * mean_b(alpha * TCKD + beta * NCKD)` of arXiv:2203.08679, as in mdistiller; shapes as `tckd_loss`."""
    arguments = student_logits, teacher_logits, target, temperature
    return alpha * tckd_loss(*arguments) + beta * nckd_loss(*arguments)


def _others(logits: Tensor, target: Tensor) -> Tensor:
    """Return the logits `(B, C - 1)` of all classes but the target."""
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, column + (column >= target[:, None]))


def _log_target(logits: Tensor, target: Tensor) -> Tensor:
    """`(B, 2)`: log of the target's probability, and of all others' together."""
    odds = logits.gather(1, target[:, None]) - _others(logits, target).logsumexp(1, keepdim=True)
    return F.logsigmoid(torch.cat([odds, -odds], 1))


@register(
    "dkd",
    title="DKD",
    paper="Zhao et al., CVPR 2022",
    url="https://arxiv.org/abs/2203.08679",
    year=2022,
    kind="logits",
)
class DKD(Method):
    """Labels, the teacher's probability of the target class, and its distribution over the others."""

    least_classes = 2
    several_teachers = "logits"

    @dataclass(frozen=True)
    class Config:
        """Defaults of OFA's code.

        Attributes:
            alpha: weight of the target-class part.
            beta: weight of the non-target-class part.
            temperature: T, of both sides.
            warmup: epochs over which the distillation loss grows to its full weight; 0: none.
            weight: of the distillation loss.
            label_weight: of the label loss.
        """

        alpha: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        beta: float = field(default=2.0, metadata=tunable(0.002, 20, log=True))
        temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        warmup: int = 0
        weight: float = 1.0
        label_weight: float = 1.0

        def __post_init__(self):
            if self.temperature <= 0 or self.warmup < 0:
                raise ValueError("temperature must be above 0, and warmup at least 0")

    variants = {
        "mdistiller_cifar": {"beta": 8.0, "temperature": 4.0, "warmup": 20},
        "mdistiller_cifar_beta_6": {"beta": 6.0, "temperature": 4.0, "warmup": 20},
        "mdistiller_cifar_beta_2": {"beta": 2.0, "temperature": 4.0, "warmup": 20},
        "mdistiller_imagenet": {"beta": 0.5, "warmup": 1},  # ResNet34 to ResNet18
        "mdistiller_imagenet_mobilenet": {"beta": 2.0, "warmup": 1},  # ResNet50 to MobileNetV1
        "tckd_only": {"beta": 0.0},
        "nckd_only": {"alpha": 0.0},
    }

    def distill_step(self, batch: Batch) -> Step:
        config, logits = self.config, self.student(batch.images).logits
        weights = config.alpha, config.beta
        distilled = dkd_loss(logits, batch.teacher.logits, batch.hard_target, *weights, config.temperature)
        weight = config.weight * ramp(batch.epoch, config.warmup)
        return Step(logits, {"label": config.label_weight * batch.label_loss(logits), "dkd": weight * distilled})


def ramp(epoch: int, warmup: int) -> float:
    """Return the share of the full weight in `epoch` (from 0): 1 from the last of `warmup` epochs on."""
    return min((epoch + 1) / warmup, 1.0) if warmup else 1.0
