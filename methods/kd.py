"""KD: match the teacher's softened class probabilities (Hinton et al., 2015).

    L = label_weight * CE(z_s, y) + weight * T^2 * mean_b KL(softmax(z_t / T) || softmax(z_s / T))

Defaults are those of the released code of OFA, for CIFAR-100 and ImageNet alike. Other code bases weigh differently,
see the variants: `mdistiller` and RepDistiller on CIFAR, `mdistiller` on ImageNet, DIST's repository on ImageNet.

Paper and code: the paper averages the two losses with a much lower weight for the labels and gives no numbers for
these datasets. The code of OFA takes the recipe's label smoothing into CE and does not soften the labels otherwise.
"""

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, tunable
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


@force_fp32
def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 * mean_b KL(softmax(z_t / T) || softmax(z_s / T))`, eq. 1-2 of arXiv:1503.02531 in its KL form.

    Args:
        student_logits: `(B, C)`.
        teacher_logits: `(B, C)`.
    """
    student = F.log_softmax(student_logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@register(
    "kd",
    title="KD",
    paper="Hinton et al., NeurIPS workshop 2014",
    url="https://arxiv.org/abs/1503.02531",
    year=2014,
    kind="logits",
)
class KD(Method):
    """Labels plus the teacher's softened probabilities."""

    several_teachers = "logits"

    @dataclass(frozen=True)
    class Config:
        """Defaults of OFA's code.

        Attributes:
            temperature: T, of both sides.
            weight: of the distillation loss.
            label_weight: of the label loss.
        """

        temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        label_weight: float = 1.0

        def __post_init__(self):
            if self.temperature <= 0:
                raise ValueError(f"temperature must be above 0, not {self.temperature}")

    variants = {
        "mdistiller_cifar": {"temperature": 4.0, "weight": 0.9, "label_weight": 0.1},
        "mdistiller_imagenet": {"temperature": 1.0, "weight": 0.5, "label_weight": 0.5},
        "dist_imagenet": {"temperature": 4.0, "weight": 1.0, "label_weight": 0.9},
    }

    def distill_step(self, batch: Batch) -> Step:
        config, logits = self.config, self.student(batch.images).logits
        distilled = kd_loss(logits, batch.teacher.logits, config.temperature)
        label = config.label_weight * batch.label_loss(logits)
        return Step(logits, {"label": label, "kd": config.weight * distilled})
