"""OFD: match the teacher's stages before their ReLU, where it matters after it (Heo et al., 2019).

    L = L_label + weight * sum_i 2^-(4-i) * (1/B) * sum over elements of d(C_i(S_i), max(T_i, m_i))
    d(s, t) = 0 if s <= t <= 0, else (s - t)^2
    m = E[x | x < 0] per channel, x the teacher's response;   C_i = BN(conv1x1), on the student

S_i and T_i are the stages of student and teacher before the activation that they end in. For a teacher stage that ends
in a batch norm and an activation, responses are taken as normal with the norm's bias as mean and its weight as
deviation: m is known in closed form.

The weights are those of the authors' code, 1e-3 on CIFAR-100 and 1e-4 on ImageNet. The loss sums over channels and
positions, so its size grows with the teacher's features.

An adaptation to unlike architectures: transformers, MLPs, ConvNeXt and the linear stages 1 to 3 of MobileNetV2
have no such norm. Of these stages, m is the mean negative response per channel on the first local batch of training,
and the stage feature itself stands in for the response, though nothing cuts off its negative part. Tokens become maps
and lose their prefix, and of two grids the finer one is averaged down to the coarser.

Paper and code: the code takes m = -3 deviations where less than a thousandth of the responses is negative, which is
done here for both kinds of margin. It compares networks of equal grids; mdistiller averages the teacher's map down to
the student's grid. Margins are plain tensors in mdistiller and buffers here, so that they survive a resume.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Setting, Step, check_choices, tunable
from cakdbench.models.staged import StagedModel
from cakdbench.registry import register
from cakdbench.utils.distributed import broadcast
from cakdbench.utils.precision import float64, force_fp32

RARE = 1e-3  # share of negative responses below which their mean is not taken, in the released code


@force_fp32
def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """`1/B sum d(s, max(t, m))` with d of 0 where s <= max(t, m) <= 0, else the squared difference.

    The partial L2 distance of arXiv:1904.01866 as released: a sum over channels and positions.

    Args:
        student: `(B, C, H, W)`, after the connector.
        teacher: `(B, C, H, W)`, before the activation.
        margin: `(C,)`.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counts = (student > target) | (target > 0)
    return (F.mse_loss(student, target, reduction="none") * counts).sum() / len(student)


@torch.no_grad()
def margin_from_norm(norm: nn.Module) -> Tensor:
    """`(C,)`: the mean of the negative values of `N(bias, weight^2)`, or -3 |weight| where they are rare."""
    mean, std = float64(norm.bias), float64(norm.weight).abs().clamp_min(1e-12)  # some start at a weight of 0
    below = torch.special.ndtr(-mean / std)
    density = torch.exp(-((mean / std) ** 2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > RARE, mean - std * density / below, -3 * std).to(norm.weight)


@torch.no_grad()
@force_fp32
def margin_from_responses(x: Tensor) -> Tensor:
    """`(C,)`: the mean of the negative values of maps `(B, C, H, W)`, or -3 deviations where they are rare."""
    values = x.transpose(0, 1).flatten(1)
    count = (values < 0).sum(1)
    mean = values.clamp_max(0).sum(1) / count.clamp_min(1)
    rare = count <= RARE * values.shape[1]
    return torch.where(rare, -3 * values.std(1, correction=0).clamp_min(1e-12), mean)


def connector(channels: int, out: int) -> nn.Sequential:
    """Make a 1x1 convolution and batch norm, as released: weights from N(0, 2 / out)."""
    conv = nn.Conv2d(channels, out, 1, bias=False)
    nn.init.normal_(conv.weight, 0, math.sqrt(2 / out))
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def on_one_grid(*maps: Tensor) -> list[Tensor]:
    """Return maps `(B, C, H, W)`, averaged down to the smallest height and width among them."""
    size = tuple(min(sides) for sides in zip(*(x.shape[-2:] for x in maps)))
    return [x if x.shape[-2:] == size else F.adaptive_avg_pool2d(x, size) for x in maps]


@register(
    "ofd",
    title="OFD",
    paper="Heo et al., ICCV 2019",
    url="https://arxiv.org/abs/1904.01866",
    year=2019,
    kind="features",
)
class OFD(Method):
    """Labels, and the teacher's stages before their activation, cut off at a margin."""

    needs = frozenset({"preacts"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of the released code for CIFAR-100.

        Attributes:
            weight: of the sum over the stages, 1e-4 on ImageNet.
            margin: `norm` in closed form where a teacher stage has the norm for it, `responses` measured everywhere.
            student_features: `preact` before the activation that ends a stage, as released; `post` after it.
        """

        weight: float = field(default=1e-3, metadata=tunable(1e-06, 0.01, log=True))
        margin: Literal["norm", "responses"] = "norm"
        student_features: Literal["preact", "post"] = "preact"

        def __post_init__(self):
            check_choices(self)
            if self.weight <= 0:
                raise ValueError(f"weight must be above 0, not {self.weight}; without distillation use scratch")

    settings = (Setting({"dataset": "imagenet1k"}, {"weight": 1e-4}),)
    variants = {
        "margin_responses": {"margin": "responses"},
        "student_post": {"student_features": "post"},
    }

    def build(self) -> None:
        """Make four connectors and margins; `measured` are the stages whose margins the first batch gives."""
        layouts = zip(self.student.layouts, self.teacher.layouts, strict=True)
        self.connectors = nn.ModuleList(connector(student.channels, teacher.channels) for student, teacher in layouts)
        norms = self.teacher.end_norms() if self.config.margin == "norm" else (None,) * 4
        for stage, (norm, layout) in enumerate(zip(norms, self.teacher.layouts, strict=True)):
            margin = torch.zeros(layout.channels) if norm is None else margin_from_norm(norm)
            self.register_buffer(f"margin_{stage + 1}", margin)
        self.measured = [stage for stage, norm in enumerate(norms) if norm is None]
        self.calibrated = not self.measured

    @property
    def margins(self) -> list[Tensor]:
        """Return the margins of the four stages, `(C,)` each."""
        return [getattr(self, f"margin_{stage}") for stage in (1, 2, 3, 4)]

    def get_extra_state(self) -> Tensor:
        """Tell if the margins are known."""
        return torch.tensor(self.calibrated)

    def set_extra_state(self, state: Tensor) -> None:
        self.calibrated = bool(state)

    def distill_step(self, batch: Batch) -> Step:
        post = self.config.student_features == "post"
        student = self.student(batch.images, stages=post, preacts=not post)
        targets = _maps(self.teacher, batch.teacher.preacts)
        if not self.calibrated:
            self.calibrate(targets)
        maps = _maps(self.student, student.stages if post else student.preacts)
        loss = sum(
            ofd_loss(*on_one_grid(connect(s), t), margin) / 2**depth
            for connect, s, t, margin, depth in zip(self.connectors, maps, targets, self.margins, (3, 2, 1, 0))
        )
        losses = {"label": batch.label_loss(student.logits), "ofd": self.config.weight * loss}
        return Step(student.logits, losses)

    def calibrate(self, maps: list[Tensor]) -> None:
        """Measure the margins that no norm gives on the teacher's maps; those of the first process count."""
        for stage in self.measured:
            self.margins[stage].copy_(broadcast(margin_from_responses(maps[stage])))
        self.calibrated = True


def _maps(model: StagedModel, stages: tuple[Tensor, ...]) -> list[Tensor]:
    return [layout.to_map(x) for layout, x in zip(model.layouts, stages, strict=True)]
