"""FBT: transfer through a model fused from the front of one network and the back of the other (Li et al., 2025).

    L = CE(z_S, y) + D(T -> S) + D(T -> F) + D(F -> S)
    D(a -> b) = OFA loss of b's logits under a's + InfoNCE of b's final feature under a's; a gets no gradient

First published as TAS. T, S and F are the teacher, the student and the fused model. F runs the front's stages 1 to
`front_k`, the L2G module (patch embedding and one Swin block), and the back's stages from `back_j` on with its head.
A CNN is the front of a pair with exactly one CNN; otherwise the student is.

Final features are compared after average pooling, as TAS 3.2 says: of a network with a class token they are the mean
of its normalised patch tokens, of any other what its classifier takes. Variant `feature_cls` compares class tokens.

Paper and code: there is no released code. The papers give the loss, gamma (1.0 on CIFAR-100, 1.5 on ImageNet), the
modules, and that the temperature is learned. Their "entire loss" is the three D alone. CE is added here, because the
default form of the OFA loss (`code`) leaves the labels out; `form=paper` contains them in every D, and CE is then not
added. The papers cite Swin V1 for the block of L2G (variant `swin_v1_block`); that it is a Swin-V2 block, the default,
is inferred from their cost table. They leave open where the temperature starts (here 0.07) and whether features are
normalised (here they are), the heads of L2G (6 and 8 fit that table alike; 8 divides every width), what a class-token
back reads (a learned token), how features of unlike width meet (a linear map), and which network is the front where
neither is a CNN (the student). They cut networks of equal blocks "averagely" as OFA does, whose code cuts 2/2/6/2, as
is done here (`split` of the recipe). Heads, token, map, front and first temperature are settings.
"""

import contextlib
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Setting, Step, check_choices, tunable
from cakdbench.methods.fbt_parts import L2G, statistics_kept
from cakdbench.methods.ofa import ofa_loss
from cakdbench.models.staged import Layout, ModelInfo, Output, StagedModel, to_map
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

MAX_SCALE = 100.0  # of the cosine similarities; the papers give no limit, this is CLIP's
PAPER_HEADS = 6  # of L2G in the cost tables of FBT and TAS


@force_fp32
def info_nce_loss(learner: Tensor, supervisor: Tensor, scale: Tensor | float) -> Tensor:
    """Pick out of the batch, for a learner's feature, the supervisor's of the same sample; eq. 3 of FBT.

    Features are normalised to length 1; there is one direction only.

    Args:
        learner: `(B, D)`, the anchors.
        supervisor: `(B, D)`, the keys.
        scale: `1 / tau`, scalar.
    """
    similarity = F.normalize(learner, dim=1) @ F.normalize(supervisor, dim=1).T
    return F.cross_entropy(scale * similarity, torch.arange(len(learner), device=learner.device))


@force_fp32
def feature_mse_loss(learner: Tensor, supervisor: Tensor) -> Tensor:
    """Return the mean squared difference of two features `(B, D)`, the papers' alternative to InfoNCE."""
    return F.mse_loss(learner, supervisor)


@register(
    "fbt",
    title="FBT",
    paper="Li et al., ICCV 2025",
    url="https://arxiv.org/abs/2410.12342",
    year=2025,
    kind="fused",
    aliases=("tas",),
    version=2,
)
class FBT(Method):
    """Labels, and knowledge from T to S, from T to F and from F to S; the giving side never gets a gradient."""

    needs = frozenset({"logits", "pooled", "stages", "model"})

    @dataclass(frozen=True)
    class Config:
        """Defaults: the papers' where they speak, else our reading, which agrees with their tables of costs.

        Attributes:
            gamma: of `ofa_loss`, 1.5 on ImageNet.
            form: of `ofa_loss`; `paper` contains the label loss, which is then not added again.
            tau: initial temperature of InfoNCE; learned, shared, never below 1 / 100.
            ts_weight: of everything from T to S; 0 leaves it out.
            tf_weight: of everything from T to F.
            fs_weight: of everything from F to S.
            ofa_weight: of every loss on logits.
            feature_weight: of every loss on features.
            feature_loss: `nce` or `mse`.
            feature: `avg` is the mean of the normalised patch tokens (TAS 3.2), `pre_logits` what the classifier
                takes; the same but for networks with a class token.
            proj: widths meet by a linear map of the learner's feature, or by average `pool`ing to the smaller.
            fuse_front: the model that gives F's first stages; `auto` is the CNN if there is exactly one.
            front_k: last stage of the front.
            back_j: first stage of the back, 5 for its head alone.
            l2g_block: L2G's attention: one Swin-V2 block without shift (`swin`), the same of Swin V1 (`swin_v1`), one
                `vit` block, or `none`.
            l2g_heads: of that block.
            l2g_window: of a Swin block, cut to the grid.
            l2g_pos: `model` adds the back's position embedding to L2G's tokens.
            fused_cls: class token for a back that reads one: a vector `learned` from the back's own, the `model`'s
                own, the `mean` of L2G's tokens, or `gap`: none, the back averages its patch tokens instead.
            ce_on_fused: weight of the label loss of F; 0 for `form=paper`, which contains it.
        """

        gamma: float = field(default=1.0, metadata=tunable(1.0, 2.0))
        form: Literal["code", "paper"] = "code"
        tau: float = 0.07
        ts_weight: float = 1.0
        tf_weight: float = 1.0
        fs_weight: float = 1.0
        ofa_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        feature_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        feature_loss: Literal["nce", "mse"] = "nce"
        feature: Literal["avg", "pre_logits"] = "avg"
        proj: Literal["linear", "pool"] = "linear"
        fuse_front: Literal["auto", "student", "teacher"] = "auto"
        front_k: int = 3
        back_j: int = 4
        l2g_block: Literal["swin", "swin_v1", "vit", "none"] = "swin"
        l2g_heads: int = 8
        l2g_window: int = 7
        l2g_pos: Literal["none", "model"] = "none"
        fused_cls: Literal["learned", "model", "mean", "gap"] = "learned"
        ce_on_fused: float = 0.0

        def __post_init__(self):
            check_choices(self)
            if self.gamma <= 0 or self.tau < 1 / MAX_SCALE:
                raise ValueError(f"gamma must be above 0 and tau at least {1 / MAX_SCALE}")
            if self.front_k not in range(1, 5) or self.back_j not in range(2, 6):
                raise ValueError(f"front_k must be 1 to 4 and back_j 2 to 5, not {self.front_k} and {self.back_j}")
            if min(self.l2g_heads, self.l2g_window) < 1:
                raise ValueError("l2g_heads and l2g_window must be at least 1")
            if self.ce_on_fused and self.contains_labels("tf"):
                raise ValueError("form=paper contains the label loss of F: set ce_on_fused=0, or form=code")

        def contains_labels(self, *transfers: str) -> bool:
            """Tell if the label loss is part of the loss on logits of one of these transfers (`ts`, `tf`, `fs`)."""
            weighted = any(getattr(self, f"{name}_weight") for name in transfers)
            return self.form == "paper" and bool(self.ofa_weight) and weighted

        def fronts_student(self, teacher: ModelInfo | StagedModel, student: ModelInfo | StagedModel) -> bool:
            """Tell if the student is the front and the teacher the back."""
            if self.fuse_front != "auto":
                return self.fuse_front == "student"
            return student.kind == "cnn" or teacher.kind != "cnn"

    settings = (Setting({"dataset": "imagenet1k"}, {"gamma": 1.5}),)
    variants = {
        "no_ts": {"ts_weight": 0.0},
        "no_tf": {"tf_weight": 0.0},
        "no_fs": {"fs_weight": 0.0},
        "no_infonce": {"feature_weight": 0.0},
        "no_ofa_loss": {"ofa_weight": 0.0},
        "mse": {"feature_loss": "mse"},
        "paper_form": {"form": "paper"},
        "vit_block": {"l2g_block": "vit"},
        "swin_v1_block": {"l2g_block": "swin_v1"},
        "heads_6": {"l2g_heads": 6},
        "window_14": {"l2g_window": 14},
        "no_stage4": {"back_j": 5, "fused_cls": "gap"},  # rows B and A of TAS Table 4
        "no_stage4_no_block": {"back_j": 5, "fused_cls": "gap", "l2g_block": "none"},
        # TAS Table 5: front stages 1 to k, back stages from j
        **{f"split_{k}_{j}": {"front_k": k, "back_j": j} for k, j in [(1, 2), (2, 3), (3, 2), (3, 3)]},
        **{f"split_{k}_4": {"front_k": k} for k in (1, 2, 4)},
        "split_4_fc": {"front_k": 4, "back_j": 5, "fused_cls": "gap"},
        "front_student": {"fuse_front": "student"},
        "front_teacher": {"fuse_front": "teacher"},
        **{f"cls_{choice}": {"fused_cls": choice} for choice in ("model", "mean", "gap")},
        "pos_model": {"l2g_pos": "model"},
        "feature_cls": {"feature": "pre_logits"},
        "proj_pool": {"proj": "pool"},
        "ce_on_fused": {"ce_on_fused": 1.0},
    }

    @classmethod
    def paper_modules(cls, student: StagedModel, teacher: StagedModel) -> dict[str, list[tuple[nn.Module, Layout]]]:
        """Return L2G as the `paper` tables count it, and the `tail` that runs again after it.

        Inferred from the printed numbers, as neither paper names its modules: a 1x1 convolution and one Swin-V2 block
        with 6 heads and window 7, without class token, temperature or the linear map between features of unlike
        width. Eight heads, with which this suite trains, fit the parameters as well.
        """
        in_front = cls.Config().fronts_student(teacher, student)
        front, back = (student, teacher) if in_front else (teacher, student)
        l2g = L2G(front.layouts[2], back.layouts[2], "swin", PAPER_HEADS, 7).eval()
        return {"paper": [(l2g, front.layouts[2])], "tail": [(Tail(back), back.layouts[2])]}

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Refuse a back that does not compose, or that L2G's heads or class token do not fit."""
        back = teacher if config.fronts_student(teacher, student) else student
        if not back.composable:
            return (
                f"fbt enters {back.name} at stage {config.back_j}, and only models of the known families can be "
                f"entered there: choose another model, or set fbt.fuse_front so that {back.name} is the front"
            )
        entry = back.layouts[config.back_j - 2]
        if config.l2g_block != "none" and entry.channels % config.l2g_heads:
            fit = max(n for n in range(1, config.l2g_heads) if entry.channels % n == 0)
            return (
                f"fbt's L2G attends with {config.l2g_heads} heads, which do not divide the width {entry.channels} "
                f"of stage {config.back_j - 1} of {back.name}: set fbt.l2g_heads={fit}"
            )
        if config.back_j == 5 and entry.prefix and config.fused_cls in ("learned", "model"):
            return (
                f"the head of {back.name} reads its class token alone, which says nothing about the image "
                "when the back has no stage (fbt.back_j=5): set fbt.fused_cls=gap or mean"
            )
        return None

    def build(self) -> None:
        """Make L2G, the feature projector and the temperature, as far as the weights leave them something to do."""
        config = self.config
        self.student_in_front = config.fronts_student(self.teacher, self.student)
        self.entry = self.back.layouts[config.back_j - 2]
        self.transfers = [name for name in ("ts", "tf", "fs") if getattr(config, f"{name}_weight")]
        self.fuses = bool(config.tf_weight or config.fs_weight or config.ce_on_fused)
        if self.fuses:
            self._build_l2g()
        if self.transfers and config.feature_weight:
            self._build_feature_path()

    def _build_l2g(self) -> None:
        config, front = self.config, self.student if self.student_in_front else self.teacher
        prefix = self.back.stage_prefix() if self.entry.prefix and config.fused_cls == "learned" else None
        layout = front.layouts[config.front_k - 1]
        self.l2g = L2G(layout, self.entry, config.l2g_block, config.l2g_heads, config.l2g_window, prefix)
        # without a loss on F nothing trains L2G; saying so keeps it out of the optimizer, the counts and DDP
        self.l2g.requires_grad_(bool(config.tf_weight or config.ce_on_fused))

    def _build_feature_path(self) -> None:
        widths = {"t": self.teacher.width, "s": self.student.width, "f": self.back.width}
        differ = any(widths[giver] != widths[learner] for giver, learner in self.transfers)
        if differ and self.config.proj == "linear":
            self.projector = nn.Linear(widths["s"], widths["t"])
        if self.config.feature_loss == "nce":
            self.log_scale = nn.Parameter(torch.tensor(-math.log(self.config.tau)))

    @property
    def back(self) -> StagedModel:
        """Return the model that gives F's last stages and head."""
        return self.teacher if self.student_in_front else self.student

    def no_weight_decay(self) -> set[str]:
        """Return the student's list, the temperature, and of L2G what Swin and ViT exempt."""
        exempt = ("log_scale", *(f"l2g.{name}" for name in L2G.no_decay))
        own = {name for name, _ in self.named_parameters() if name.startswith(exempt)}
        return super().no_weight_decay() | own

    def distill_step(self, batch: Batch) -> Step:
        """Run S, then L2G and the back on stages of S or of `batch.teacher`; the front never runs again."""
        config, student = self.config, self.student(batch.images, stages=True)
        known = {"t": self._known(self.teacher, batch.teacher), "s": self._known(self.student, student)}
        losses = {} if config.contains_labels("ts", "fs") else {"label": batch.label_loss(student.logits)}
        if self.fuses:
            front = student if self.student_in_front else batch.teacher
            known["f"] = self.fuse(front.stages[config.front_k - 1])
        for giver, learner in self.transfers:
            losses |= self._transfer(giver + learner, known[giver], known[learner], batch.hard_target)
        if config.ce_on_fused:
            losses["label_f"] = config.ce_on_fused * batch.label_loss(known["f"].logits)
        return Step(student.logits, losses)

    def fuse(self, feature: Tensor) -> Output:
        """Return what F knows, from the front's feature of stage `front_k`.

        A student back runs here for the second time in the step: batch norms do not record it.
        """
        with contextlib.nullcontext() if self.student_in_front else statistics_kept(self.student):
            x = self._enter(self.l2g(feature))
            for stage in range(self.config.back_j, 5):
                x = self.back.stage(stage, x)
            if self.entry.prefix and self.config.fused_cls == "gap":
                return self.back.mean_head(x)
            output = self.back.head(x)
            return self._known(self.back, Output(output.logits, output.pooled, (x,)))

    def evaluated(self) -> dict[str, nn.Module]:
        """Return F, which TAS calls the assistant, where something trains or asks it."""
        return {"assistant": Assistant(self)} if self.fuses else {}

    def _enter(self, tokens: Tensor) -> Tensor:
        """Return L2G's tokens `(B, H*W, D)` as the feature the back's stage takes."""
        if not self.entry.tokens:
            return to_map(tokens, self.entry.grid)
        if self.config.l2g_pos == "model" and (positions := self.back.patch_pos()) is not None:
            tokens = tokens + positions.detach()
        prefix = self._prefix(tokens)
        return tokens if prefix is None else torch.cat([prefix.expand(len(tokens), -1, -1), tokens], 1)

    def _prefix(self, tokens: Tensor) -> Tensor | None:
        choice, count = self.config.fused_cls, self.entry.prefix
        if not count or choice == "gap":
            return None
        if choice == "mean":
            return tokens.mean(1, keepdim=True).expand(-1, count, -1)
        return self.l2g.prefix if choice == "learned" else self.back.stage_prefix().detach()

    def _known(self, model: StagedModel, output: Output) -> Output:
        """Return the logits, with the feature of the settings as `pooled`; the last of `output.stages` is stage 4."""
        prefix = model.layouts[3].prefix
        if self.config.feature == "pre_logits" or not prefix:
            return output
        return Output(output.logits, model.mean_pooled(output.stages[-1][:, prefix:]))

    def _transfer(self, name: str, giver: Output, learner: Output, target: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of `ts`, `tf` or `fs`, none of weight 0; the giver gets no gradient."""
        config, losses = self.config, {}
        weight = getattr(config, f"{name}_weight")
        if config.ofa_weight:
            loss = ofa_loss(learner.logits, giver.logits.detach(), target, config.gamma, form=config.form)
            losses[f"ofa_{name}"] = weight * config.ofa_weight * loss
        if config.feature_weight:
            loss = self._feature_loss(*self._meet(learner.pooled, giver.pooled.detach()))
            losses[f"{config.feature_loss}_{name}"] = weight * config.feature_weight * loss
        return losses

    def _meet(self, learner: Tensor, giver: Tensor) -> tuple[Tensor, Tensor]:
        """Bring both features to one width; if they differ, the learner has the student's, the giver the teacher's."""
        if learner.shape[1] == giver.shape[1]:
            return learner, giver
        if self.config.proj == "linear":
            return self.projector(learner), giver
        width = min(learner.shape[1], giver.shape[1])
        return F.adaptive_avg_pool1d(learner, width), F.adaptive_avg_pool1d(giver, width)

    def _feature_loss(self, learner: Tensor, giver: Tensor) -> Tensor:
        if self.config.feature_loss == "mse":
            return feature_mse_loss(learner, giver)
        with torch.no_grad():  # as CLIP does: clamped in the graph instead, it would get no gradient any more
            self.log_scale.clamp_(max=math.log(MAX_SCALE) - 1e-6)  # rounded to float32, its exp is below 100
        return info_nce_loss(learner, giver, self.log_scale.exp())


class Assistant(nn.Module):
    """F as a network of its own, from images to what it knows of them."""

    def __init__(self, method: FBT):
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Output:
        method = self.method
        front = method.student if method.student_in_front else method.teacher
        return method.fuse(front(images, stages=True).stages[method.config.front_k - 1])


class Tail(nn.Module):
    """The last stage of a back with its norm and head, from the stage's entry to logits `(B, classes)`."""

    def __init__(self, back: StagedModel):
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return self.back.head(self.back.stage(4, x)).logits
