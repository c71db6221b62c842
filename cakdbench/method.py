"""The Method contract: what a distillation method must and may define.

A method MUST
- be registered with `@register(id, title=..., paper=..., url=..., year=..., kind=...)`,
- define `Config`, a frozen dataclass of its hyper-parameters with their defaults, each explained in its docstring,
- define `distill_step(batch) -> Step`, whose named losses are summed to give the training objective.

A method MAY
- create extra modules in `build` (trained with the student, dropped from the exported student),
- set `needs`: what it uses of the teacher; an empty set means that no teacher is built. Networks that do not give
  these parts, as teacher or as student, are refused,
- refuse a pair with a reason (`refuses`), and data of fewer classes than `least_classes` or local batches of fewer
  images than `least_batch`,
- learn from several teachers at once (`several_teachers`),
- hook the start of an epoch, the end of a step, and a save,
- offer further networks to evaluate when training ends (`evaluated`),
- offer views of itself to whoever analyses its runs (`attended`, `projected`),
- train an adversary of the student with an optimizer of its own (`extra_optimizers`, `Step.adversary`),
- give settings per dataset or architecture (`settings`) and named `variants` as data,
- declare with a Config's field what `cakdbench tune` may search (`tunable`).

A method MUST NOT draw seeds, write to the batch, touch the recipe's optimizer, or ask for a model's class. State
that has to survive a resume belongs in buffers, or in `get_extra_state`. What `cakdbench explain` shows of a method
is its module's and its Config's docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from cakdbench.models.staged import Layout, ModelInfo, Output, StagedModel

TEACHER_PARTS = frozenset({"logits", "pooled", "stages", "preacts", "attention", "model"})
"""The parts of the teacher a method may need: fields of `batch.teacher`, or `model`, to call `self.teacher` itself.

Without `model`, `self.teacher` may have shapes and no content, as when its outputs come from a tape.
"""

KINDS = ("labels", "logits", "features", "relations", "fused", "adversarial")
"""The kinds of methods, by the thing they transfer or the way they do; in the order of the lists."""


def forward_options(needs: frozenset[str]) -> dict[str, bool]:
    """Return the arguments of the teacher's forward pass that give what is needed."""
    return {part: part in needs for part in ("stages", "preacts", "attention")}


@torch.no_grad()
def teacher_output(teacher: StagedModel | None, images: Tensor, needs: frozenset[str]) -> Output | None:
    """Return what a frozen teacher says of images, as far as it is needed; None if nothing of its pass is."""
    if not needs - {"model"}:
        return None
    assert teacher is not None, "a method needs a teacher, and there is none"
    return teacher(images, **forward_options(needs))


@dataclass
class Batch:
    """One local batch, the same for every lane.

    Attributes:
        images: `(B, 3, H, W)`, normalised with the dataset's statistics.
        target: `(B,)` class indices, or `(B, C)` probabilities under mixup and cutmix.
        index: `(B,)` positions of the samples in the training set.
        micro_batch: which local batch of the step this is, counted over all processes.
        teacher: the frozen teacher's outputs on these images (no gradient), or None.
        criterion: the recipe's label loss, `(logits, target) -> scalar`.
    """

    images: Tensor
    target: Tensor
    index: Tensor
    epoch: int
    step: int
    criterion: Callable[[Tensor, Tensor], Tensor]
    teacher: Output | None = None
    micro_batch: int = 0

    def label_loss(self, logits: Tensor) -> Tensor:
        """Return the recipe's loss of `logits` `(B, C)` against the labels."""
        return self.criterion(logits, self.target)

    @property
    def hard_target(self) -> Tensor:
        """`(B,)` class indices; the most probable class of a soft target, the lower one at a tie."""
        return self.target.argmax(1) if self.target.ndim == 2 else self.target

    @property
    def teachers(self) -> tuple[Output, ...]:
        """The outputs of each of several teachers, in the order of their names; of one teacher its own alone."""
        assert self.teacher is not None, "a method that needs a teacher has one"
        return self.teacher.each or (self.teacher,)


def mean_loss(losses: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars, as of one loss under each of several teachers; a single one is returned as it is."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).mean()


def sum_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of named losses, a scalar; there must be one."""
    return cast(Tensor, sum(losses.values()))


@dataclass
class Step:
    """The result of a method on a local batch.

    Attributes:
        logits: `(B, C)` of the student.
        losses: named; the student and the extra modules minimise their sum, so weights are inside.
        adversary: named; must depend on nothing but the parameters of `extra_optimizers`, which minimise their sum.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    adversary: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := self.losses.keys() & self.adversary.keys():
            raise ValueError(f"{sorted(both)[0]!r} names a loss and one of the adversary: give them two names")

    @property
    def total(self) -> Tensor:
        return sum_losses(self.losses)

    @property
    def everything(self) -> dict[str, Tensor]:
        """All losses by name, the adversary's too; one backward pass through their sum serves both sides."""
        return self.losses | self.adversary


def step_fault(step: object, size: int, classes: int) -> tuple[str, str] | None:
    """Return what is wrong with the result of `distill_step` on `size` images, and what to do about it, or None.

    Losses that are not finite are no matter of form, and not looked at.
    """
    if not isinstance(step, Step) or not step.losses:
        given = "no loss" if isinstance(step, Step) else type(step).__name__
        return f"distill_step gave {given}", "return Step(logits, {name: scalar, ...})"
    for name, loss in step.everything.items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return f"loss {name!r} is no scalar", "reduce it, by .mean() for example"
    shape, expected = tuple(getattr(step.logits, "shape", ())), (size, classes)
    if shape != expected:
        return f"the logits are {shape}, not {expected}", "return the student's logits"
    return None


@dataclass(frozen=True)
class Attention:
    """Attention among the places of several features.

    Attributes:
        weights: `(B, heads, N, N)`: how much each place (row) takes from each (column); rows sum to 1.
        grids: rows and columns of the places of each feature, by its name, in the order of the N.
    """

    weights: Tensor
    grids: Mapping[str, tuple[int, int]]


def check_choices(config: Any) -> None:
    """For a Config's `__post_init__`: fields typed `Literal[...]` hold one of their choices, or ValueError."""
    for name, hint in get_type_hints(type(config)).items():
        choices, value = get_args(hint), getattr(config, name)
        if get_origin(hint) is Literal and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


TUNABLE = "tunable"
"""The key of a `Tunable` in a dataclass field's metadata."""


@dataclass(frozen=True)
class Tunable:
    """The values among which a setting is searched: from `low` to `high`, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[bool | int | float | str, ...] = ()


def tunable(
    low: float = 0.0, high: float = 0.0, log: bool = False, choices: tuple[bool | int | float | str, ...] = ()
) -> dict[str, Tunable]:
    """Return the metadata of a Config's field that may be tuned: `field(default=1.0, metadata=tunable(0.01, 10))`.

    It has no part in a run's key. Declare only what acts where the other settings have their defaults.
    """
    return {TUNABLE: Tunable(low, high, log, choices)}


def tunables(config: type) -> dict[str, Tunable]:
    """Return what a Config declares as tunable, by name."""
    return {entry.name: entry.metadata[TUNABLE] for entry in fields(config) if TUNABLE in entry.metadata}


@dataclass(frozen=True)
class Setting:
    """Config values a source gives for some pairs: they replace the defaults where `where` matches.

    `where` may name `dataset`, `teacher_kind` and `student_kind`; later settings win over earlier ones.
    """

    where: Mapping[str, str]
    values: Mapping[str, Any]


class Method(nn.Module):
    """A student in training under one distillation method.

    The student and the extra modules are submodules; the frozen teacher is reachable as `self.teacher` but is
    no submodule, so that it never enters `state_dict`, the optimizer or DDP. `labels` `(N,)` are the classes of the
    training samples, in the order that `batch.index` counts in.

    Attributes:
        several_teachers: how it learns from several teachers at once. "logits": from the mean of their logits, which
            is `batch.teacher.logits`. "losses": from each of `batch.teachers` by a loss of its own, of which it takes
            the mean (`mean_loss`). None: it takes one teacher.
    """

    @dataclass(frozen=True)
    class Config:
        """Hyper-parameters; every field has a default."""

    needs: frozenset[str] = frozenset({"logits"})
    settings: ClassVar[tuple[Setting, ...]] = ()
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    id: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    url: ClassVar[str]
    year: ClassVar[int | None]
    kind: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    least_classes: ClassVar[int] = 1
    least_batch: ClassVar[int] = 1
    several_teachers: ClassVar[Literal["logits", "losses"] | None] = None

    def __init__(self, student: StagedModel, teacher: StagedModel | None, config: Config, labels: Tensor | None = None):
        super().__init__()
        self.student = student
        self.config = config
        self._frozen = teacher, labels  # a tuple, since torch would make a submodule of a module
        self.build()

    @property
    def teacher(self) -> StagedModel | None:
        """The frozen teacher, in eval mode; call its parts with gradients on to pass through its weights."""
        return self._frozen[0]

    @property
    def labels(self) -> Tensor | None:
        """`(N,)` on the CPU: the class of every training sample."""
        return self._frozen[1]

    def build(self) -> None:
        """Create the extra modules; `self.needs` may be narrowed to what `self.config` leaves of it."""

    def distill_step(self, batch: Batch) -> Step:
        """Make one forward pass: return the student's logits and the named losses."""
        raise NotImplementedError(f"{type(self).__name__} must define distill_step(batch) -> Step")

    def forward(self, batch: Batch) -> Step:
        return self.distill_step(batch)

    def epoch_start(self, epoch: int) -> None:
        """Called before the first step of every epoch, a resumed one included."""

    def step_end(self) -> None:
        """Called after every optimizer step, on every process: the time to renew what batches of a step share."""

    def before_save(self) -> None:
        """Called on every process before the state of the first is saved: the time to gather what only others have."""

    def extra_optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimizers of an adversary's parameters, which the recipe's optimizer then leaves alone.

        They step with the recipe's, and skip parameters that `Step.adversary` did not reach.
        """
        return []

    def evaluated(self) -> Mapping[str, nn.Module]:
        """Return further networks to evaluate when training ends, by name; each takes images and gives an `Output`."""
        return {}

    def attended(self, images: Tensor) -> Attention | None:
        """Return the attention that the method's own modules compute on images `(B, 3, S, S)`; None if they do not."""
        return None

    def projected(self, images: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return features of the student as the method brings them to the teacher's, and the teacher's, by name.

        Both are `(rows, D)`, a row an image and place.
        """
        return {}

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Return the reason why the method cannot run on this pair, or None."""
        return None

    @classmethod
    def paper_modules(
        cls, student: StagedModel, teacher: StagedModel
    ) -> Mapping[str, Sequence[tuple[nn.Module, Layout]]]:
        """Return what papers' cost tables count of the method: by name, modules with the layouts they take."""
        return {}

    def no_weight_decay(self) -> set[str]:
        """Return the parameters timm excludes from weight decay: the student's own list."""
        return {f"student.{name}" for name in self.student.no_weight_decay()}

    def extra_parameters(self) -> int:
        """Return the number of trainable parameters that are not the student's."""
        student = {id(p) for p in self.student.parameters()}
        return sum(p.numel() for p in self.parameters() if p.requires_grad and id(p) not in student)
