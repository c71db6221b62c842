"""FOFA: match regions of all stages with a teacher that prompts adapt to the student (Lin et al., 2025).

    L = CE(z_s, y) + alpha * KL(p_t || p_s) + beta * sum_i HCL(S_i, F_i) + gamma * KL(p_t || p_t')

p_s, p_t, p_t' are the softened probabilities of the student, the plain teacher and the prompted teacher. S_i are the
student's features: each stage is cut into n_q / 4 regions, the regions of all four stages attend to each other
(region-aware attention, RAA), and an aligner brings the regions of stage i to the teacher's shape. F_i is the
feature of stage i of the prompted teacher. Its weights are frozen; before the first block of stage i it goes through
an adaptive feedback prompt (AFP):

    x' = x + scale_i * PB_i(FB_i(x, fb_i)),    fb_i = S_i - F_i of the step before, without gradient

PB and FB are small convolutional blocks and scale_i starts at 0; without feedback, as in the first step, x goes
into PB directly. HCL is the loss of ReviewKD. The gradient of HCL enters both S and, through the frozen teacher,
the prompts; the last term keeps the prompted teacher near the plain one. All of this is dropped after training.

Feedback belongs to its local batch's place in the step; it is in the checkpoints, so that a resumed run goes on
as an undisturbed one. If the batch size has changed, that step has no feedback.

n_q is the paper's: 64 on CIFAR-100 and 144 on ImageNet, where the released commands leave 64. The other defaults are
the released code's; the paper gives no weights.

Paper and code: the paper leaves out the residual and scale_i of the prompts, which are the code's. The released
code (PAT) departs from the paper in four places that `compat: official` reproduces and `fixed`, the default,
corrects: squeeze-and-excitation returns its gate instead of the feature times the gate, so that a prompt is one number
a channel; prompted maps are read back as tokens without moving the axes, which scrambles the features of every
token teacher; the last token is taken for the class token; position is counted over the samples of the batch instead
of the tokens. Not reproduced: the first teacher pass of an epoch ran in train mode, and feedback was lost on
resuming. The code needs n_q = 4 * k^2, which the 80 of the paper's Table 6 is not. Details that the paper
leaves open are the code's: all linear maps and convolutions have biases but the aligners' 1x1 convolutions, and
attention and prompts start as PyTorch starts them. So are three parts of RAA that its eq. 4, a plain softmax attention,
does not have: eight heads, the LayerNorm before the queries, keys and values, and the positions added to queries and
keys.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cakdbench.method import Attention, Batch, Method, Setting, Step, check_choices, tunable
from cakdbench.methods.fofa_parts import GROUPS, REDUCTION, Prompt, RegionAttention, aligner, patches_of
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.ofa import init_weights
from cakdbench.methods.reviewkd import hcl_loss
from cakdbench.models.staged import ModelInfo, Output
from cakdbench.registry import register
from cakdbench.utils.distributed import all_gather

Feedback = dict[int, list[Tensor]]  # place of the local batch, to one map for each prompted stage


@register(
    "fofa",
    title="FOFA",
    paper="Lin et al., AAAI 2025",
    url="",
    year=2025,
    kind="features",
    aliases=("pat",),
)
class FOFA(Method):
    """Labels, the teacher's logits, and the four stages of a teacher whose prompts learn with the student."""

    needs = frozenset({"logits", "stages", "model"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of the released code, with its errors corrected.

        Attributes:
            alpha: weight of the plain teacher's logits; 0 leaves the term out.
            beta: weight of the features; 0 leaves out RAA, aligners and prompts, and so the term of `gamma`.
            gamma: weight of the term that keeps the prompted teacher near the plain one.
            temperature: T, of every KL; the losses carry T^2.
            n_q: regions of all four stages together, 4 * k^2; 144 on ImageNet (paper).
            dim: width of the region tokens, even and a multiple of `heads`.
            heads: of the attention between regions.
            raa: let regions attend to each other; without, they go to the aligners as they are.
            prompt_stages: teacher stages with a prompt; empty: the plain teacher's features are the target.
            feedback: let prompts see the feedback of the step before.
            reset_feedback: forget the feedback when an epoch starts.
            compat: `fixed`, or `official` with the released code's errors.
        """

        alpha: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        beta: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        gamma: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        temperature: float = field(default=1.0, metadata=tunable(1.0, 8.0, log=True))
        n_q: int = 64
        dim: int = 512
        heads: int = 8
        raa: bool = True
        prompt_stages: tuple[int, ...] = (1, 2, 3, 4)
        feedback: bool = True
        reset_feedback: bool = False
        compat: Literal["fixed", "official"] = "fixed"

        def __post_init__(self):
            check_choices(self)
            if min(self.alpha, self.beta, self.gamma) < 0 or self.temperature <= 0:
                raise ValueError("alpha, beta and gamma must be at least 0 and temperature above 0")
            if self.n_q < 4 or 4 * math.isqrt(self.n_q // 4) ** 2 != self.n_q:
                raise ValueError(f"n_q must be 4 * k^2, and {self.n_q} is not: the nearest are {_valid_near(self.n_q)}")
            if self.heads < 1 or self.dim < 2 or self.dim % 2 or self.dim % self.heads:
                raise ValueError(f"dim must be even and a multiple of heads, not {self.dim} with {self.heads} heads")
            if not set(self.prompt_stages) <= {1, 2, 3, 4} or len(set(self.prompt_stages)) < len(self.prompt_stages):
                raise ValueError(f"prompt_stages must be some of 1, 2, 3, 4, each once, not {self.prompt_stages}")

        @property
        def prompted(self) -> tuple[int, ...]:
            """Return the stages whose prompt is trained by something."""
            return tuple(sorted(self.prompt_stages)) if self.beta else ()

    settings = (Setting({"dataset": "imagenet1k"}, {"n_q": 144}),)
    variants = {
        "official": {"compat": "official", "n_q": 64},  # the released commands leave n_q at 64 on ImageNet too
        # Table 4, whose first row is FitNet
        "raa_only": {"prompt_stages": ()},
        "no_feedback": {"feedback": False},
        "no_raa": {"raa": False},
        "no_raa_no_afp": {"raa": False, "prompt_stages": ()},
        **{f"stage_{i}": {"prompt_stages": (i,)} for i in (1, 2, 3, 4)},  # Table 5; which rows is not known
        "stages_12": {"prompt_stages": (1, 2)},
        "stages_34": {"prompt_stages": (3, 4)},
        "stages_123": {"prompt_stages": (1, 2, 3)},
        "stages_234": {"prompt_stages": (2, 3, 4)},
        **{f"n_q_{n}": {"n_q": n} for n in (36, 64, 100, 144)},  # Table 6, with 100 for its 80
        "no_kd": {"alpha": 0.0},
        "no_regularizer": {"gamma": 0.0},
        "reset_feedback": {"reset_feedback": True},
    }

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Refuse a teacher that cannot be entered, or whose width at a prompt the prompt's convolutions cannot take."""
        return next(iter(_obstacles(teacher, config)), None)

    def build(self) -> None:
        """Make RAA and aligners; prompts where a prompt is trained by something."""
        config = self.config
        self._feedback: Feedback = {}
        self._collected: Feedback = {}
        self._gathered = False  # True once the feedback of other processes has joined
        self._epoch = -1  # of the feedback
        self.needs = _needs(config)
        if not config.beta:
            return
        self.official = config.compat == "official"
        layouts, count = self.teacher.layouts, config.n_q // 4
        options = config.n_q, config.dim, config.heads, config.raa, self.official
        self.raa = RegionAttention(self.student.layouts, *options)
        self.aligners = nn.ModuleList(aligner(count, config.dim, layout) for layout in layouts)
        init_weights(self.raa.projectors)
        init_weights(self.aligners)
        self.prompts = nn.ModuleDict({str(i): self._prompt(i) for i in config.prompted})

    def _prompt(self, stage: int) -> Prompt:
        entry, layout = self.teacher.entries[stage - 1], self.teacher.layouts[stage - 1]
        return Prompt(entry, layout, self.config.feedback, self.official)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images, stages=bool(self.config.beta))
        losses = {"label": batch.label_loss(student.logits)}
        if config.alpha:
            losses["kd"] = config.alpha * kd_loss(student.logits, batch.teacher.logits, config.temperature)
        if not config.beta:
            return Step(student.logits, losses)
        aligned = [align(x) for align, x in zip(self.aligners, self.raa(student.stages))]
        taught = self.prompted_teacher(batch) if config.prompted else batch.teacher
        target = [patches_of(x, layout, self.official) for x, layout in zip(taught.stages, self.teacher.layouts)]
        losses["fofa"] = config.beta * sum(hcl_loss(a, t) for a, t in zip(aligned, target))
        if config.prompted and config.gamma:
            near = kd_loss(taught.logits, batch.teacher.logits, config.temperature)
            losses["fofa_prompt"] = config.gamma * near
        self._collect(batch, aligned, target)
        return Step(student.logits, losses)

    def prompted_teacher(self, batch: Batch) -> Output:
        """Run the frozen teacher with its prompts; the gradient goes through it to them."""
        feedback, stages = self._feedback_for(batch), []
        x = self.teacher.stem(batch.images)
        for number in (1, 2, 3, 4):
            x = self.teacher.downsample(number, x)
            if number in self.config.prompted:
                x = self.prompts[str(number)](x, feedback.get(number))
            x = self.teacher.blocks(number, x)
            stages.append(x)
        output = self.teacher.head(x)
        return Output(output.logits, output.pooled, tuple(stages))

    def attended(self, images: Tensor) -> Attention | None:
        """Return the attention among the regions of the student's four stages."""
        if not (self.config.beta and self.config.raa):
            return None
        regions = self.raa.tokens(self.student(images, stages=True).stages)
        grid = (math.isqrt(self.config.n_q // 4),) * 2
        return Attention(self.raa.weights(torch.cat(regions, 1)), {f"stage {i}": grid for i in (1, 2, 3, 4)})

    def _feedback_for(self, batch: Batch) -> dict[int, Tensor]:
        """Map a stage to its feedback of the step before; empty if there is none for a batch of this size."""
        known = self._feedback.get(batch.micro_batch)
        if known is None or len(known[0]) != len(batch.images):
            return {}
        return {stage: x.to(batch.images.device, non_blocking=True) for stage, x in zip(self.config.prompted, known)}

    def _collect(self, batch: Batch, aligned: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        if self.config.prompted and self.config.feedback:
            # Contiguous, as it is after a checkpoint: in another layout the next step would round otherwise.
            parts = [(aligned[i - 1].detach() - target[i - 1].detach()).contiguous() for i in self.config.prompted]
            self._collected[batch.micro_batch], self._epoch = parts, batch.epoch

    def step_end(self) -> None:
        """Make the step's differences the next one's feedback."""
        self._feedback, self._collected, self._gathered = self._collected, {}, False

    def before_save(self) -> None:
        """Whichever process saves, it saves the feedback of all: process r of w has the places r, r + w, ..."""
        if self._gathered:
            return
        own, self._feedback, self._gathered = self._feedback, {}, True
        for place, parts in own.items():
            gathered = [all_gather(part) for part in parts]
            processes = len(gathered[0]) // len(parts[0])
            for rank, split in enumerate(zip(*(whole.chunk(processes) for whole in gathered))):
                self._feedback[place - place % processes + rank] = list(split)

    def epoch_start(self, epoch: int) -> None:
        """With `reset_feedback`, forget that of another epoch: a run resumed within this one keeps its own."""
        if self.config.reset_feedback and epoch != self._epoch:
            self._feedback = {}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the feedback, which the next step needs."""
        return {"epoch": self._epoch, "feedback": self._feedback}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what `get_extra_state` gave; tensors move to the batch's device when they are used."""
        self._epoch, self._feedback, self._gathered = state["epoch"], dict(state["feedback"]), True


def _needs(config: FOFA.Config) -> frozenset[str]:
    features = {"model"} if config.prompted else {"stages"} if config.beta else set()
    logits = {"logits"} if config.alpha or (config.prompted and config.gamma) else set()
    return frozenset(features | logits)


def _valid_near(n_q: int) -> str:
    k = max(math.isqrt(max(n_q, 4) // 4), 1)
    return "4 and 16" if n_q < 4 else f"{4 * k**2} and {4 * (k + 1) ** 2}"


def _obstacles(teacher: ModelInfo, config: FOFA.Config) -> Iterable[str]:
    if config.prompted and not teacher.composable:
        yield (
            f"fofa prompts {teacher.name} before its stages, and only models of the known families can be entered "
            "there: choose another teacher, or leave prompts out with fofa.prompt_stages=()"
        )
        return
    for stage in config.prompted:
        width = teacher.entries[stage - 1].channels
        if width % GROUPS or width < REDUCTION:
            yield (
                f"fofa's prompt before stage {stage} of {teacher.name} needs a width there that is a multiple of "
                f"{GROUPS} and at least {REDUCTION}, not {width}: leave {stage} out of fofa.prompt_stages"
            )
