"""FCFD: make student features do in the teacher's later stages what the teacher's own do (Liu et al., 2023).

    L = CE(z_s, y) + kd_weight * T^2 KL(z_t -> z_s) + path_weight * sum_p T^2 KL(z_t -> z_p)
        + weight * ramp(e) * [ sum_i sum_f mse(f, F_i^t) + sum_f mse(gap(relu(f)), gap(relu(F_4^t))) ]
    KL(z_t -> z) = mean_b KL(softmax(z_t / T) || softmax(z / T)),   ramp(e) = min(1, (e + 1) / ramp), e from 0

A mixed path p runs one network's first 1, 2 or 3 stages, a bridge, and the other network's remaining stages and head,
which gives z_p: six paths, of which `paths` distinct ones are drawn for every local batch. f runs over the features
in the teacher's space at stage i: the bridged student feature, and what the teacher's stage i made of a path from
student to teacher; in the last sum over those of stage 4. The teacher is frozen; gradients pass through its stages.

A bridge is a 3x3 convolution (stride 2 to half the grid, 4x4 transposed to twice the grid) and a batch norm, and
LeakyReLU 0.1 where the stage that it stands in for ends in an activation. Bridges lead from student to teacher after
stages 1 to 4, and from teacher to student after 1 to 3: one after stage 4 would never be used.

Unlike networks, an adaptation of this suite: tokens are laid out as maps and back; any other grid is averaged before
the convolution or interpolated after it; a bridge into a network with prefix tokens owns the ones that it hands over,
started from those the network begins with. Losses on features leave prefix tokens out. Patch merging is part of the
stage that it opens.

Defaults are the paper's of ImageNet (T = 1, ramp 5, and weight 5 as for ResNet50 to MobileNetV1), for other
datasets too; CIFAR-100 has T = 4 and ramp 20 in
`settings`. Variants hold what the paper sets for single pairs.

Paper and code: the released trainer puts the teacher in train mode, so that its batch norms use the batch; here it
stays in eval mode. The student's batch norms keep separate running statistics for every path there, which only an
evaluation of paths would read; here paths record none. KL is taken from detached targets, as in the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Setting, Step, check_choices, tunable
from cakdbench.methods.fbt_parts import statistics_kept
from cakdbench.methods.kd import kd_loss
from cakdbench.models.staged import Layout, ModelInfo, Output, StagedModel
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

PATHS = tuple((direction, stage) for direction in ("to_teacher", "to_student") for stage in (1, 2, 3))


@force_fp32
def feature_loss(feature: Tensor, teacher: Tensor) -> Tensor:
    """`mse(f, F_i^t)`, the mean over all elements of maps `(B, C, H, W)` in the teacher's space."""
    return F.mse_loss(feature, teacher)


@force_fp32
def pooled_loss(feature: Tensor, teacher: Tensor) -> Tensor:
    """`mse(gap(relu(f)), gap(relu(F_4^t)))` of maps `(B, C, H, W)`, of the released code."""
    return F.mse_loss(feature.relu().mean((2, 3)), teacher.relu().mean((2, 3)))


class Bridge(nn.Module):
    """From a feature in `source` to a map of the width and grid of `target`.

    Args:
        activation: whether the stage that it stands in for ends in one.
        prefix: `(1, P, D)`, initial value of the prefix tokens it owns for the target, if it owns any.
    """

    def __init__(self, source: Layout, target: Layout, activation: bool, prefix: Tensor | None = None):
        super().__init__()
        self.source, self.target = source, target
        norm = nn.BatchNorm2d(target.channels)
        self.project = nn.Sequential(*_convolution(source, target), norm)
        if activation:
            self.project.append(nn.LeakyReLU(0.1))
        self.prefix = None if prefix is None else nn.Parameter(prefix.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.source.to_map(x))

    def entry(self, x: Tensor) -> Tensor:
        """Return the output of `forward` as the feature that the target's next stage takes."""
        if not self.target.tokens:
            return x
        return self.target.to_tokens(x, None if self.prefix is None else self.prefix.expand(len(x), -1, -1))


def _convolution(source: Layout, target: Layout) -> list[nn.Module]:
    """Make the convolution to the target's width and grid, initialised as released (He-normal, fan out)."""
    widths, (old, new) = (source.channels, target.channels), (source.grid, target.grid)
    resize: list[nn.Module] = []
    if old == tuple(2 * side for side in new):
        convolution = nn.Conv2d(*widths, 3, 2, 1, bias=False)
    elif new == tuple(2 * side for side in old):
        convolution = nn.ConvTranspose2d(*widths, 4, 2, 1, bias=False)
    else:
        convolution = nn.Conv2d(*widths, 3, 1, 1, bias=False)
        resize = [] if old == new else [_resize(old, new)]
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, *resize] if new > old else [*resize, convolution]


def _resize(old: tuple[int, int], new: tuple[int, int]) -> nn.Module:
    return nn.Upsample(new, mode="bilinear") if new > old else nn.AdaptiveAvgPool2d(new)


@register(
    "fcfd",
    title="FCFD",
    paper="Liu et al., ICLR 2023",
    url="https://arxiv.org/abs/2304.11832",
    year=2023,
    kind="fused",
)
class FCFD(Method):
    """Labels, the teacher's logits on the student and on mixed paths, and the teacher's features."""

    needs = frozenset({"logits", "stages", "model"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of the paper on ImageNet; weights of the logit losses are 1 everywhere in it.

        Attributes:
            temperature: T, of all logit losses; 4 on CIFAR-100.
            kd_weight: of the loss on the student's own logits.
            path_weight: of the loss on the mixed paths' logits; 0 leaves paths from teacher to student out.
            weight: of the losses on features; 0 leaves them out.
            ramp: epochs in which `weight` rises from `weight / ramp`; 20 on CIFAR-100.
            paths: distinct mixed paths in each local batch, 0 to 6.
            pooled: what stage-4 features are compared by in addition: `relu` (released code), the `head`'s vector that
                the teacher's classifier takes (the mean of normalised patches if it has prefix tokens), or `none`.
        """

        temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        kd_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        path_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        weight: float = field(default=5.0, metadata=tunable(0.005, 50, log=True))
        ramp: int = 5
        paths: int = 2
        pooled: Literal["relu", "head", "none"] = "relu"

        def __post_init__(self):
            check_choices(self)
            if self.temperature <= 0:
                raise ValueError(f"temperature must be above 0, not {self.temperature}")
            if self.ramp < 1:
                raise ValueError(f"ramp must be at least 1 epoch, not {self.ramp}")
            if self.paths not in range(len(PATHS) + 1):
                raise ValueError(f"paths must be 0 to {len(PATHS)}, not {self.paths}")

    settings = (Setting({"dataset": "cifar100"}, {"temperature": 4.0, "ramp": 20}),)
    variants = {
        "temperature_8": {"temperature": 8.0},  # some CIFAR pairs
        "weight_0_02": {"weight": 0.02},  # ResNet34 to ResNet18 on ImageNet
        "no_paths": {"paths": 0},
        "all_paths": {"paths": 6},
        "no_features": {"weight": 0.0},
        "no_path_logits": {"path_weight": 0.0},
        "head_pooled": {"pooled": "head"},
        "no_pooled": {"pooled": "none"},
    }

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Refuse networks that cannot be entered between their stages."""
        closed = [model.name for model in (teacher, student) if not model.composable]
        if closed:
            return (
                f"fcfd enters both networks after each stage, and {' and '.join(closed)} cannot be run in parts: "
                "use a model of the zoo, or a timm model of one of its classes"
            )
        return None

    def build(self) -> None:
        """Make the bridges that the weights leave something to do."""
        config = self.config
        crossed = (1, 2, 3) if config.paths and (config.path_weight or config.weight) else ()
        back = crossed if config.path_weight else ()
        self.to_teacher = self._bridges(self.student, self.teacher, (1, 2, 3, 4) if config.weight else crossed)
        self.to_student = self._bridges(self.teacher, self.student, back)

    def _bridges(self, source: StagedModel, target: StagedModel, stages: Sequence[int]) -> nn.ModuleDict:
        ends, bridges = target.end_norms(), nn.ModuleDict()
        for stage in stages:
            layouts = source.layouts[stage - 1], target.layouts[stage - 1]
            # nothing is run after stage 4, and a path has to be drawn for the prefix to be read
            prefix = target.stage_prefix() if stage < 4 and self.config.paths else None
            bridges[str(stage)] = Bridge(*layouts, ends[stage - 1] is not None, prefix)
        return bridges

    def no_weight_decay(self) -> set[str]:
        """Return the student's list, and the prefix tokens, as in ViT."""
        own = {name for name, _ in self.named_parameters() if name.endswith(".prefix")}
        return super().no_weight_decay() | {name for name in own if not name.startswith("student.")}

    def distill_step(self, batch: Batch) -> Step:
        """Run both networks once, every bridge to the teacher once, and the drawn paths from their bridges on."""
        config, student = self.config, self.student(batch.images, stages=True)
        bridged = {int(i): bridge(student.stages[int(i) - 1]) for i, bridge in self.to_teacher.items()}
        logits, features = self._mixed(bridged, batch.teacher)
        losses = {"label": batch.label_loss(student.logits)}
        losses["kd"] = config.kd_weight * kd_loss(student.logits, batch.teacher.logits, config.temperature)
        if config.paths and config.path_weight:
            path_losses = [kd_loss(z, batch.teacher.logits, config.temperature) for z in logits]
            losses["paths"] = config.path_weight * sum(path_losses)
        if config.weight:
            losses |= self._feature_losses([*bridged.items(), *features], batch)
        return Step(student.logits, losses)

    def _mixed(self, bridged: dict[int, Tensor], teacher: Output) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
        """Return logits of the drawn paths, and the features of teacher stages on the way, as `(stage, map)`."""
        logits, features = [], []
        for index in torch.randperm(len(PATHS))[: self.config.paths].tolist():  # on the CPU: no wait for the device
            direction, stage = PATHS[index]
            bridges = getattr(self, direction)
            if str(stage) not in bridges:
                continue
            bridge = bridges[str(stage)]
            if direction == "to_teacher":
                path_logits, passed = self._through(self.teacher, stage, bridge.entry(bridged[stage]))
                features += passed
            else:
                with statistics_kept(self.student):
                    x = bridge.entry(bridge(teacher.stages[stage - 1]))
                    path_logits, _ = self._through(self.student, stage, x)
            logits.append(path_logits)
        return logits, features

    @staticmethod
    def _through(model: StagedModel, stage: int, x: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Return the logits of `model` entered after `stage`, and its features on the way as `(stage, map)`."""
        features = []
        for number in range(stage + 1, 5):
            x = model.stage(number, x)
            features.append((number, model.layouts[number - 1].to_map(x)))
        return model.head(x).logits, features

    def _feature_losses(self, features: list[tuple[int, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses of the maps `(stage, map)` in the teacher's space."""
        config, layouts = self.config, self.teacher.layouts
        weight = config.weight * min(1.0, (batch.epoch + 1) / config.ramp)
        targets = [layout.to_map(x) for layout, x in zip(layouts, batch.teacher.stages)]
        losses = {"features": weight * sum(feature_loss(x, targets[stage - 1]) for stage, x in features)}
        if config.pooled != "none":
            last = [x for stage, x in features if stage == 4]
            losses["pooled"] = weight * sum(self._pooled_loss(x, targets[3]) for x in last)
        return losses

    def _pooled_loss(self, feature: Tensor, target: Tensor) -> Tensor:
        if self.config.pooled == "relu":
            return pooled_loss(feature, target)
        return feature_loss(self._head_vector(feature), self._head_vector(target))

    def _head_vector(self, x: Tensor) -> Tensor:
        """Return what the teacher's classifier takes of a stage-4 map."""
        layout = self.teacher.layouts[3]
        x = layout.to_tokens(x) if layout.tokens else x
        return (self.teacher.mean_head(x) if layout.prefix else self.teacher.head(x)).pooled
