"""OFA: read class logits out of every student stage and match the teacher's (Hao et al., 2023).

    L = CE(z_s, y) + kd_weight * l(z_s) + ofa_weight * sum_i l(branch_i(F_i))
    l(z) = -mean_b sum_c [(p_c + 1[c = y])^gamma - 1[c = y]] log q_c,   p = softmax(z_t / T), q = softmax(z / T)

An exit branch reads logits out of each stage: depthwise-separable convolutions for maps, patch merging and attention
for tokens. Branches are dropped after training. Defaults are those of the released code, gamma 1.5 on ImageNet, and
for CNN students on CIFAR-100 the branch weight 0.1 of the author's own runs (issues 14 and 32 of the repository).

Paper and code: the printed loss as TAS restates it, `form=paper`, enhances the target class as (1 + p_y)^gamma and so
contains the label loss; the code's form, the default, raises the other classes to gamma too, and is KD for gamma = 1.
The code builds 3, 2, 1 and 1 blocks (maps: 3, 2, 1 and a 1x1
convolution); the published cost tables were counted with 4, 3, 2, 1 (`depth=paper`). The code takes the logarithm of
a softmax, which can underflow; here it is log_softmax.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from timm.layers import trunc_normal_
from timm.models.swin_transformer import PatchMerging
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Setting, Step, check_choices, tunable
from cakdbench.models.staged import Layout, ModelInfo, StagedModel
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

HEADS = 4  # of the token branches' blocks, in the released code


@force_fp32
def ofa_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    gamma: float = 1.0,
    temperature: float = 1.0,
    form: str = "code",
) -> Tensor:
    """Return the cross-entropy to the teacher's probabilities with the target class enhanced.

    `code`, the released implementation: `-mean_b sum_c [(p_c + 1[c = y])^gamma - 1[c = y]] log q_c`, which for
    gamma = 1 is KD without its constant. `paper`, the printed equation without the teacher's entropy:
    `-mean_b [(1 + p_y)^gamma log q_y + sum_{c != y} p_c log q_c]`, which contains the label loss.

    Args:
        logits: `(B, C)` of the learner, giving q.
        teacher_logits: `(B, C)` of the supervisor, giving p.
        target: `(B,)` class indices y.
    """
    p = F.softmax(teacher_logits / temperature, 1)
    is_target = F.one_hot(target, p.shape[1]).to(p.dtype)
    enhanced = (p + is_target) ** gamma
    weight = enhanced - is_target if form == "code" else torch.where(is_target > 0, enhanced, p)
    return -(weight * F.log_softmax(logits / temperature, 1)).sum(1).mean()


def sep_conv(width: int, out: int) -> nn.Sequential:
    """Make two depthwise-separable convolutions, the first of stride 2: `(B, width, H, W)` to `(B, out, H/2, W/2)`."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False),
        nn.Conv2d(width, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def map_branch(layout: Layout, blocks: int, width: int, num_classes: int) -> nn.Sequential:
    """Make the branch of a map `(B, C, H, W)`: `blocks` halvings (none: a 1x1 convolution), then logits."""
    widths = [layout.channels * 2**i for i in range(blocks)] + [width]
    convs = [sep_conv(*pair) for pair in pairwise(widths)]
    convs = convs or [nn.Conv2d(layout.channels, width, 1)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


class TokenBranch(nn.Module):
    """Branch of a stage of tokens: merge 2x2 patches, let prefix tokens pass by, attend, read logits.

    Args:
        merges: number of 2x2 patch mergings.
        blocks: number of transformer blocks after them.
        width: of the blocks, the student's final feature.
    """

    def __init__(self, layout: Layout, merges: int, blocks: int, width: int, num_classes: int):
        super().__init__()
        self.layout = layout
        steps: list[nn.Module] = []
        for i in range(merges):
            steps.append(PatchMerging(width if i else layout.channels, width))
            steps.append(nn.Identity() if 0 < i == merges - 1 else nn.GELU())
        self.merge = nn.Sequential(*steps)
        self.blocks = nn.Sequential(*[Block(width, HEADS) for _ in range(blocks)])
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `(B, prefix + H*W, D)` to logits `(B, C)`."""
        patches = self.merge(self.layout.to_map(x).permute(0, 2, 3, 1)).flatten(1, 2)
        if not self.layout.prefix:
            return self.classifier(self.blocks(patches).mean(1))
        return self.classifier(self.blocks(torch.cat([self.layout.prefix_of(x), patches], 1))[:, 0])


def init_weights(branches: nn.Module) -> None:
    """Initialise as the released code: He-normal (fan out) convolutions, truncated normal (0.02) linear layers."""
    for module in branches.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def count_merges(grid: tuple[int, int], image_size: int) -> int | None:
    """Count 2x2 mergings that bring `grid` to `image_size / 32` patches a side (7 at 224); None if none do."""
    last = image_size // 32
    merges = round(math.log2(grid[0] / last)) if last else -1
    return merges if merges >= 0 and grid == (last * 2**merges,) * 2 else None


@register(
    "ofa",
    title="OFA",
    paper="Hao et al., NeurIPS 2023",
    url="https://arxiv.org/abs/2310.19444",
    year=2023,
    kind="logits",
)
class OFA(Method):
    """Labels, the teacher's logits, and the same logits read out of the student's stages by exit branches."""

    several_teachers = "logits"

    @dataclass(frozen=True)
    class Config:
        """Defaults of the released code.

        Attributes:
            gamma: exponent that enhances the target class.
            stage_gammas: one gamma a branch, in the order of `stages`; empty: `gamma` for all.
            temperature: T, of both sides.
            kd_weight: of the loss on the student's own logits.
            ofa_weight: of the sum over the branches; 0 builds none.
            stages: student stages that get a branch.
            form: of `ofa_loss`; `paper` contains the label loss, which is then not added again.
            depth: blocks a branch, `released` 3, 2, 1 and one more token block (map: a 1x1 convolution), or the
                4, 3, 2, 1 that the cost tables of FBT and TAS were counted with.
        """

        gamma: float = field(default=1.0, metadata=tunable(1.0, 2.0))
        stage_gammas: tuple[float, ...] = ()
        temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        kd_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        ofa_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        stages: tuple[int, ...] = (1, 2, 3, 4)
        form: Literal["code", "paper"] = "code"
        depth: Literal["released", "paper"] = "released"

        def __post_init__(self):
            check_choices(self)
            if min(self.temperature, self.gamma, *self.stage_gammas) <= 0:
                raise ValueError("gamma, stage_gammas and temperature must be above 0")
            if not set(self.stages) <= {1, 2, 3, 4} or len(set(self.stages)) < len(self.stages):
                raise ValueError(f"stages must be some of 1, 2, 3, 4, each once, not {self.stages}")
            if self.stage_gammas and len(self.stage_gammas) != len(self.stages):
                raise ValueError(f"stage_gammas must be one per stage of {self.stages}, or empty")

        @property
        def branch_gammas(self) -> dict[int, float]:
            """Map a stage to its gamma, for the branches that count."""
            gammas = self.stage_gammas or (self.gamma,) * len(self.stages)
            return dict(zip(self.stages, gammas)) if self.ofa_weight else {}

        def blocks(self, stage: int, tokens: bool) -> int:
            """Return the number of blocks of the branch at `stage`."""
            return 5 - stage if self.depth == "paper" else max(4 - stage, int(tokens))

    settings = (
        Setting({"dataset": "imagenet1k"}, {"gamma": 1.5}),
        # the author's own runs of ResNet18 and MobileNetV2: issues 14 and 32 of the OFA repository
        Setting({"dataset": "cifar100", "student_kind": "cnn"}, {"ofa_weight": 0.1}),
    )
    variants = {
        **{f"stage_{i}": {"stages": (i,)} for i in (1, 2, 3, 4)},
        "stages_12": {"stages": (1, 2)},
        "stages_34": {"stages": (3, 4)},
        "stages_123": {"stages": (1, 2, 3)},
        "stages_234": {"stages": (2, 3, 4)},
        "logits_only": {"stages": ()},
        **{f"gamma_{str(g).replace('.', '_')}": {"gamma": g} for g in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)},
        "weight_1": {"ofa_weight": 1.0},
        "paper_form": {"form": "paper"},
        "paper_depth": {"depth": "paper"},
    }

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Refuse token stages whose grid cannot be merged to `image_size / 32`, or of a width no branch can take."""
        return next(filter(None, _obstacles(student, config)), None)

    @classmethod
    def paper_modules(cls, student: StagedModel, teacher: StagedModel) -> dict[str, list[tuple[nn.Module, Layout]]]:
        """Return the branches as the `paper` tables count them, one block more a stage, and as they are `released`."""
        modules = {}
        for depth in ("paper", "released"):
            branches = cls(student, teacher, cls.Config(depth=depth)).eval().branches.values()
            modules[depth] = list(zip(branches, student.layouts, strict=True))
        return modules

    def build(self) -> None:
        """Make one branch per stage, its shape chosen by the student's layout alone."""
        self.branches = nn.ModuleDict({str(i): self._branch(i) for i in self.config.branch_gammas})
        init_weights(self.branches)

    def _branch(self, stage: int) -> nn.Module:
        student, layout = self.student, self.student.layouts[stage - 1]
        blocks = self.config.blocks(stage, layout.tokens)
        if not layout.tokens:
            return map_branch(layout, blocks, max(student.width, self.teacher.width), student.num_classes)
        merges = count_merges(layout.grid, student.image_size)
        return TokenBranch(layout, merges, blocks, student.width, student.num_classes)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images, stages=True)

        def loss(logits: Tensor, gamma: float) -> Tensor:
            teacher, target = batch.teacher.logits, batch.hard_target
            return ofa_loss(logits, teacher, target, gamma, config.temperature, config.form)

        contained = config.form == "paper" and config.kd_weight
        losses = {} if contained else {"label": batch.label_loss(student.logits)}
        losses["kd"] = config.kd_weight * loss(student.logits, config.gamma)
        for stage, gamma in config.branch_gammas.items():
            logits = self.branches[str(stage)](student.stages[stage - 1])
            losses[f"ofa_{stage}"] = config.ofa_weight * loss(logits, gamma)
        return Step(student.logits, losses)


def _obstacles(student: ModelInfo, config: OFA.Config) -> Iterable[str | None]:
    for stage in config.branch_gammas:
        layout, name = student.layouts[stage - 1], f"stage {stage} of {student.name}"
        if not layout.tokens:
            continue
        merges = count_merges(layout.grid, student.image_size)
        if merges is None:
            side, grid = student.image_size // 32, "x".join(map(str, layout.grid))
            yield (
                f"ofa merges 2x2 patches down to {side}x{side} (image size / 32), which {name} with its {grid} patches "
                "cannot reach: use an image size that is a multiple of 32 and a student with patches of 4, 8, 16 or "
                f"32 px, or leave {stage} out of ofa.stages"
            )
        if layout.channels != student.width and (layout.prefix or not merges):
            yield f"ofa needs {name} as wide as the final feature ({student.width}), not {layout.channels}"
    if student.width % HEADS and any(student.layouts[i - 1].tokens for i in config.branch_gammas):
        width = f"the width {student.width} of {student.name}"
        yield f"ofa's branches attend with {HEADS} heads, which do not divide {width}"
