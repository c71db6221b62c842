"""FitNet: regress the teacher's intermediate features from the student's (Romero et al., 2015).

    L = label_weight * CE(z_s, y) + kd_weight * KD(z_s, z_t)
        + weight * sum_i mean((A_i(F_i^s) - F_i^t)^2)

The sum runs over the stages, the mean over every element. A_i is trained with the student and then dropped. It is one
linear layer, which sees the student's feature without its prefix tokens as a map of `H_s x W_s` positions and gives the
teacher's, without prefix tokens, in all its positions. A finer student has r x r positions merged into each of the
teacher's, a coarser one gives r x r of them from each of its own:

    student -> teacher   H_s >= H_t                        H_s < H_t
    map     -> map       Conv1x1 C_s -> C_t, no bias       as map -> tokens
    map     -> tokens    Conv C_s -> D_t, kernel, stride r Conv1x1 C_s -> r^2 D_t
    tokens  -> map       merge, Conv1x1 r^2 D_s -> C_t     Linear D_s -> r^2 C_t
                         (equal: Linear D_s -> C_t)
    tokens  -> tokens    merge, Linear r^2 D_s -> D_t      Linear D_s -> r^2 D_t

Defaults are those of the code that OFA's authors posted for pairs of unlike architectures (issue 10 of their
repository), which the code of FOFA shares. Convolutions start He-normal (fan out), linear layers truncated normal
(0.02).

Paper and code: FitNets has two phases, hint training of one layer and then KD. All code bases compared here train in
one; those of OFA and FOFA put a hint on every stage. OFA's release takes pairs of CNNs alone and has no KD term
(variant `no_kd`); the posted code adds one with weight 1, so the published rows of FitNet on unlike pairs probably
contain it. Where one student token stands for r x r teacher tokens, the posted code lays them on consecutive places of
the raster (variant `raster`); here they go to the block that the student token covers. Sources are silent on grids that
do not divide each other, and on maps of unlike size: the former are resized to the teacher's (up bilinearly, down by
averaging), the latter follow the rule for tokens. `mdistiller` has that repository's stage and weights, not its batch
norm and ReLU after the convolution. The variants `final_stage`, `pooled` and `pooled_nce` are rows of Table 4 in the
appendix of FBT (arXiv:2410.12342), which leaves open how widths meet: here by a linear layer.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.methods.fbt import info_nce_loss
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.ofa import init_weights
from cakdbench.models.staged import Layout, Output
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


@force_fp32
def fitnet_loss(aligned: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of the squared differences, eq. 3 of arXiv:1412.6550 without its 1/2, as in OFA's code.

    Args:
        aligned: the student's feature, brought to the teacher's shape.
        teacher: of any shape.
    """
    return F.mse_loss(aligned, teacher)


def merge(x: Tensor, block: tuple[int, int]) -> Tensor:
    """Merge `(B, h*H, w*W, D)` to `(B, H, W, h*w*D)`: each h x w block of positions in one, row by row."""
    h, w = block
    x = x.unflatten(2, (-1, w)).unflatten(1, (-1, h))
    return x.transpose(2, 3).flatten(3)


def spread(x: Tensor, block: tuple[int, int]) -> Tensor:
    """Invert `merge`: `(B, H, W, h*w*D)` to `(B, h*H, w*W, D)`."""
    h, w = block
    x = x.unflatten(3, (h, w, -1)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


class Aligner(nn.Module):
    """From a student stage's feature to the teacher's, as a map `(B, C_t, H_t, W_t)`; see the table above.

    Args:
        reshape: `raster` lays what one student token gives on consecutive teacher tokens, `grid` on its block.
    """

    def __init__(self, student: Layout, teacher: Layout, reshape: str = "grid"):
        super().__init__()
        self.student, self.grid = student, teacher.grid
        self.raster = reshape == "raster" and student.tokens and teacher.tokens
        self.down, self.up = blocks(student.grid, teacher.grid)
        self.divides = self.down is not None
        if not self.divides:
            self.down = self.up = (1, 1)
        inner, outer = self.down[0] * self.down[1], teacher.channels * self.up[0] * self.up[1]
        if not student.tokens:
            bias = teacher.tokens or student.grid != teacher.grid
            self.layer = nn.Conv2d(student.channels, outer, self.down, self.down, bias=bias)
        elif not teacher.tokens and inner > 1:
            self.layer = nn.Conv2d(student.channels * inner, outer, 1)
        else:
            self.layer = nn.Linear(student.channels * inner, outer)

    def forward(self, x: Tensor) -> Tensor:
        x = self._fit(self.student.to_map(x))
        if self.student.tokens:
            x = merge(x.permute(0, 2, 3, 1), self.down)
        if isinstance(self.layer, nn.Linear):
            x = self.layer(x)
        else:
            x = self.layer(x if not self.student.tokens else x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x.reshape(len(x), *self.grid, -1) if self.raster else spread(x, self.up)
        return x.permute(0, 3, 1, 2)

    def _fit(self, x: Tensor) -> Tensor:
        """Resize a map whose grid does not divide the teacher's, nor is divided by it, to the teacher's grid."""
        if self.divides:
            return x
        if x.shape[-2] < self.grid[0] or x.shape[-1] < self.grid[1]:
            return F.interpolate(x, self.grid, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(x, self.grid)


def blocks(own: tuple[int, int], goal: tuple[int, int]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return the block of own positions per goal one, and the reverse; None, None if neither grid divides the other."""
    if all(side % length == 0 for side, length in zip(own, goal)):
        return (own[0] // goal[0], own[1] // goal[1]), (1, 1)
    if all(length % side == 0 for side, length in zip(own, goal)):
        return (1, 1), (goal[0] // own[0], goal[1] // own[1])
    return None, None


@register(
    "fitnet",
    title="FitNet",
    paper="Romero et al., ICLR 2015",
    url="https://arxiv.org/abs/1412.6550",
    year=2015,
    kind="features",
)
class FitNet(Method):
    """Labels, the teacher's logits, and its stage features through one trained linear layer each."""

    needs = frozenset({"logits", "pooled", "stages"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of the heterogeneous FitNet that OFA's authors posted.

        Attributes:
            weight: of the hints' sum; 0 leaves them out.
            label_weight: of the label loss.
            kd_weight: of the loss on logits; 0 leaves it out, as OFA's release for CNN pairs does.
            kd_temperature: of the loss on logits.
            stages: that give a hint.
            hint: `stages` for the features of `stages`; `pooled` for the squared difference, and `pooled_nce` for
                InfoNCE, of what the classifiers take, where widths differ through a linear layer.
            tau: temperature of InfoNCE, fixed; the value FBT's starts at.
            reshape: where one student token gives several of the teacher's, `grid` lays them on its block, `raster`
                on consecutive places as the posted code does.
        """

        weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        label_weight: float = 1.0
        kd_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        kd_temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        stages: tuple[int, ...] = (1, 2, 3, 4)
        hint: Literal["stages", "pooled", "pooled_nce"] = "stages"
        tau: float = 0.07
        reshape: Literal["grid", "raster"] = "grid"

        def __post_init__(self):
            check_choices(self)
            if min(self.kd_temperature, self.tau) <= 0:
                raise ValueError("kd_temperature and tau must be above 0")
            if not self.stages or not set(self.stages) <= {1, 2, 3, 4} or len(set(self.stages)) < len(self.stages):
                raise ValueError(f"stages must be some of 1, 2, 3, 4, at least one and each once, not {self.stages}")

    variants = {
        "no_kd": {"kd_weight": 0.0},
        "mdistiller": {"stages": (2,), "weight": 100.0, "kd_weight": 0.0},
        **{f"stage_{i}": {"stages": (i,)} for i in (1, 2, 3)},
        "final_stage": {"stages": (4,)},
        "pooled": {"hint": "pooled"},
        "pooled_nce": {"hint": "pooled_nce"},
        "raster": {"reshape": "raster"},
    }

    def build(self) -> None:
        """Make an aligner per stage, or a layer for pooled features of unlike widths, if anything trains them."""
        config = self.config
        self.on_stages = bool(config.weight) and config.hint == "stages"
        self.on_pooled = bool(config.weight) and config.hint != "stages"
        read = {"logits": config.kd_weight, "stages": self.on_stages, "pooled": self.on_pooled}
        self.needs = frozenset(part for part, used in read.items() if used)
        stages = config.stages if self.on_stages else ()
        self.aligners = nn.ModuleDict({str(i): self._aligner(i) for i in stages})
        if self.on_pooled and self.student.width != self.teacher.width:
            self.aligners["pooled"] = nn.Linear(self.student.width, self.teacher.width)
        init_weights(self.aligners)

    def _aligner(self, stage: int) -> Aligner:
        return Aligner(self.student.layouts[stage - 1], self.teacher.layouts[stage - 1], self.config.reshape)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images, stages=self.on_stages)
        losses = {"label": config.label_weight * batch.label_loss(student.logits)}
        for name, loss in self._hints(student, batch.teacher).items():
            losses[name] = config.weight * loss
        if config.kd_weight:
            losses["kd"] = config.kd_weight * kd_loss(student.logits, batch.teacher.logits, config.kd_temperature)
        return Step(student.logits, losses)

    def _hints(self, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.on_stages:
            return {f"fitnet_{i}": self._stage_loss(i, student, teacher) for i in self.config.stages}
        if not self.on_pooled:
            return {}
        own = self.aligners["pooled"](student.pooled) if self.aligners else student.pooled
        if self.config.hint == "pooled":
            return {"fitnet_pooled": fitnet_loss(own, teacher.pooled)}
        return {"nce_pooled": info_nce_loss(own, teacher.pooled, 1 / self.config.tau)}

    def _stage_loss(self, stage: int, student: Output, teacher: Output) -> Tensor:
        aligned = self.aligners[str(stage)](student.stages[stage - 1])
        return fitnet_loss(aligned, self.teacher.layouts[stage - 1].to_map(teacher.stages[stage - 1]))
