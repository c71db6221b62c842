"""ReviewKD: let every student level review the deeper ones and match the teacher's (Chen et al., 2021).

    L = L_label + weight * ramp(epoch) * sum_k HCL(out_k, F_k),   ramp = min(epoch / warmup_epochs, 1), epochs from 1
    x   = BN(conv1x1(S_k)),   y = nearest resize of r_(k+1) to the size of x
    r_k = a_1 x + a_2 y,   (a_1, a_2) = sigmoid(conv1x1([x, y])),   r_5 = x
    out_k = BN(conv3x3(nearest resize of r_k to the size of F_k))

S_k and F_k are the features of student and teacher: those of the four stages, and as level 5 the pooled feature as a
map of one pixel. HCL is the mean squared error of two maps averaged with those of the maps pooled to 4x4, 2x2 and 1x1.

There is no published setting for unlike architectures. The defaults are those of the authors' ImageNet run of ResNet18,
weight 1 without warm-up; their CIFAR-100 runs weigh 0.6 to 8 and warm up for 20 epochs, see the variants. The teacher's
stages are taken before the activation that ends them, the student's after it, as mdistiller does on CIFAR-100; on
ImageNet it takes both before. Stages that end in no activation, those of transformers and MLPs, are taken as they are.
Tokens become maps and lose their prefix.

Paper and code: the sizes and weights of HCL are those of the code, which skips the sizes that a map does not exceed.
mdistiller's setting for the width of the blocks is not read by its code, which takes min(512, width of the last student
level); here it is min(512, widest student stage) unless set. The released blocks hand a map on after bringing it to the
teacher's size, which is the same where that is a multiple of the student's; here it is handed on before, so that a
coarser teacher does not coarsen what the shallow levels review.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.models.staged import Output, StagedModel
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

MAX_WIDTH = 512  # of the blocks, in the released code


@force_fp32
def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss: mean squared errors of the maps and of their pooled versions, averaged.

    `[MSE(s, t) + sum_l c_l MSE(pool_l(s), pool_l(t))] / (1 + sum_l c_l)` over the l of (4, 2, 1) below H, where
    pool_l averages to l x l and c = 1/2, 1/4, 1/8 in the order of use; HCL of arXiv:2104.09044 as released.

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C, H, W)`.
    """
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (side for side in (4, 2, 1) if side < student.shape[2]):
        weight /= 2
        total += weight
        pooled = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
        loss = loss + weight * F.mse_loss(*pooled)
    return loss / total


class Review(nn.Module):
    """One level's block (ABF): take in what the deeper levels hand on, pass it on, and imitate the teacher's map.

    Args:
        channels: of the student's map.
        width: of what the levels hand on.
        out: channels of the teacher's map.
        size: height and width of the teacher's map.
        deepest: whether no level hands it anything.
    """

    def __init__(self, channels: int, width: int, out: int, size: tuple[int, int], deepest: bool):
        super().__init__()
        self.size = size
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.leave = nn.Sequential(nn.Conv2d(width, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        for conv in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the imitation `(B, out, *size)` and what goes on `(B, width, H, W)`, from maps `(B, channels, H, W)`."""
        x = self.enter(x)
        if self.attention is not None:
            deeper = _resized(deeper, x.shape[-2:])
            own, reviewed = self.attention(torch.cat([x, deeper], 1)).chunk(2, 1)
            x = own * x + reviewed * deeper
        return self.leave(_resized(x, self.size)), x


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="nearest")


@register(
    "reviewkd",
    title="ReviewKD",
    paper="Chen et al., CVPR 2021",
    url="https://arxiv.org/abs/2104.09044",
    year=2021,
    kind="features",
)
class ReviewKD(Method):
    """Labels, and the teacher's features on five levels, each matched by the student's own and all deeper ones."""

    needs = frozenset({"pooled", "stages", "preacts"})
    least_batch = 2

    @dataclass(frozen=True)
    class Config:
        """Defaults: the authors' ImageNet run of ResNet18.

        Attributes:
            weight: of the sum over the five levels.
            warmup_epochs: epochs over which the weight grows linearly; 0: none.
            mid: width of the blocks; 0: that of the widest student stage, 512 at most.
            teacher_features: `preact` before the activation that ends a stage (mdistiller), `post` after it.
            student_features: likewise; mdistiller takes `post` on CIFAR and `preact` on ImageNet.
        """

        weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        warmup_epochs: int = 0
        mid: int = 0
        teacher_features: Literal["preact", "post"] = "preact"
        student_features: Literal["post", "preact"] = "post"

        def __post_init__(self):
            check_choices(self)
            if self.weight <= 0:
                raise ValueError(f"weight must be above 0, not {self.weight}; without distillation use scratch")
            if self.warmup_epochs < 0 or self.mid < 0:
                raise ValueError("warmup_epochs and mid must be at least 0")

        def ramp(self, epoch: int) -> float:
            """Return the share of the weight in an epoch, counted from 0."""
            return min((epoch + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0

    variants = {
        "cifar": {"weight": 5.0, "warmup_epochs": 20},
        "cifar_resnet56": {"weight": 0.6, "warmup_epochs": 20},
        "cifar_resnet110": {"weight": 1.0, "warmup_epochs": 20},
        "cifar_shufflenet": {"weight": 8.0, "warmup_epochs": 20},
        "imagenet_mobilenet": {"weight": 8.0, "mid": 256},
        "mdistiller_imagenet": {"warmup_epochs": 1, "student_features": "preact"},
        "mdistiller_imagenet_mobilenet": {"weight": 8.0, "warmup_epochs": 1, "student_features": "preact"},
        "teacher_post": {"teacher_features": "post"},
        "student_preact": {"student_features": "preact"},
    }

    def build(self) -> None:
        """Make five blocks, shallow to deep."""
        student, teacher = self.student, self.teacher
        self.needs = frozenset({"pooled", _field(self.config.teacher_features)})
        width = self.config.mid or min(MAX_WIDTH, max(layout.channels for layout in student.layouts))
        layouts = zip(student.layouts, teacher.layouts, strict=True)
        blocks = [Review(own.channels, width, goal.channels, goal.grid, deepest=False) for own, goal in layouts]
        self.blocks = nn.ModuleList([*blocks, Review(student.width, width, teacher.width, (1, 1), deepest=True)])

    def distill_step(self, batch: Batch) -> Step:
        config, post = self.config, self.config.student_features == "post"
        student = self.student(batch.images, stages=post, preacts=not post)
        outs = self.review(_levels(self.student, student, config.student_features))
        targets = _levels(self.teacher, batch.teacher, config.teacher_features)
        loss = sum(hcl_loss(out, target) for out, target in zip(outs, targets, strict=True))
        reviewed = config.weight * config.ramp(batch.epoch) * loss
        return Step(student.logits, {"label": batch.label_loss(student.logits), "reviewkd": reviewed})

    def review(self, levels: list[Tensor]) -> list[Tensor]:
        """Turn the student's five maps, shallow to deep, into as many in the teacher's shapes."""
        deeper, outs = None, []
        for block, x in zip(reversed(self.blocks), reversed(levels), strict=True):
            out, deeper = block(x, deeper)
            outs.append(out)
        return outs[::-1]


def _field(features: str) -> str:
    return "preacts" if features == "preact" else "stages"


def _levels(model: StagedModel, output: Output, features: str) -> list[Tensor]:
    """Return the four stages as maps, and the pooled feature as a map of one pixel."""
    stages = getattr(output, _field(features))
    maps = [layout.to_map(x) for layout, x in zip(model.layouts, stages, strict=True)]
    return [*maps, output.pooled[:, :, None, None]]
