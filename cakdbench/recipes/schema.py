"""What a recipe is made of: every number of a training protocol, with its bounds."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from cakdbench.utils.corruptions import parse_corruptions
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.neutral import Neutral, fill_neutral, strip_neutral
from cakdbench.utils.toml import Table, checked, setting_keys

DESCRIPTION = ("title", "source", "notes", "default_for")
"""Fields that describe a recipe: no part of its numbers, and not taken over by `extends`."""

Kind = Literal["cnn", "msa", "mlp"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
INIT = re.compile(r"random|hub|(?:file|run):.+|sha256:[0-9a-f]{64}")


def _none(value: Any) -> Any:
    """Return None for `none`; a list as a tuple, since behind this pydantic takes what it reads for Python's."""
    return None if value == "none" else tuple(value) if isinstance(value, list) else value


Absent = BeforeValidator(_none)
AbsentText = BeforeValidator(lambda text: None if text in ("none", "") else text)


def _listed(value: Any) -> Any:
    """Return a text of the command line as what stands between its commas; nothing of `none`."""
    if isinstance(value, str):
        return () if value in ("none", "") else tuple(value.split(","))
    return tuple(value) if isinstance(value, list) else value


def _one_spelling(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return corruptions as KIND=STRENGTH, each once and sorted: what means the same has one key."""
    try:
        return tuple(map(str, sorted(parse_corruptions(names))))
    except UsageError as error:
        raise ValueError(str(error)) from error


Corruptions = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_one_spelling)]


COMMON_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
"""Names that timm has had since long, so that no recipe with one waits for it to be imported."""


class Optimizer(Table):
    """An optimizer by timm's name; its `sgd` is SGD with Nesterov momentum, `momentum` is SGD without."""

    name: str
    lr: Positive
    weight_decay: NotNegative
    momentum: Fraction = 0.9
    betas: Annotated[tuple[Fraction, Fraction] | None, Absent, Neutral(None)] = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in COMMON_OPTIMIZERS:
            return name
        from timm.optim import list_optimizers  # here, since a command that only lists must not wait for torch

        known = [str(optimizer) for optimizer in list_optimizers()]
        if name not in known:
            raise ValueError(str(unknown("optimizer", name, known)))
        return name


class Schedule(Table):
    """A learning-rate schedule of timm.

    Attributes:
        min_lr: where a cosine ends.
        warmup_lr: where the linear warm-up starts; it takes the place of the schedule's first epochs.
        decay_epochs: distance of the decays (step), or the epochs of the decays (multistep).
        per: whether the rate changes every epoch, as in timm's script, or every step.
    """

    name: Literal["cosine", "step", "multistep"]
    min_lr: Annotated[NotNegative, Neutral(0.0)] = 0.0
    warmup_epochs: Annotated[int, Field(ge=0), Neutral(0)] = 0
    warmup_lr: Annotated[NotNegative, Neutral(0.0)] = 0.0
    decay_epochs: Annotated[Positive | tuple[Count, ...] | None, Absent, Neutral(None)] = None
    decay_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    per: Annotated[Literal["epoch", "step"], Neutral("epoch")] = "epoch"

    @model_validator(mode="after")
    def _decays(self) -> Self:
        forms: dict[str, tuple[type, str]] = {
            "cosine": (type(None), "no decay_epochs"),
            "step": (float, "one number as decay_epochs"),
            "multistep": (tuple, "a list as decay_epochs"),
        }
        kind, form = forms[self.name]
        if not isinstance(self.decay_epochs, kind):
            raise ValueError(f"a {self.name} schedule takes {form}")
        if self.name != "cosine" and self.min_lr:
            raise ValueError("only a cosine schedule has a min_lr")
        return self


class Augment(Table):
    """Random changes of the training images; timm's and torchvision's transforms.

    Attributes:
        crop: "rrc" (RandomResizedCrop of `scale` and `ratio`), "pad" (pad, crop back, resize) or "none".
        pad: pixels on each side of the original image, before it is resized.
        hflip, reprob: probabilities. color_jitter: strength; timm leaves it out when `auto_augment` is set.
        auto_augment: timm's notation, e.g. "rand-m9-mstd0.5-inc1".
        mixup, cutmix: alpha, 0 for off.
    """

    crop: Literal["rrc", "pad", "none"]
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    pad: Annotated[int, Field(ge=0), Neutral(0)] = 0
    hflip: Annotated[Fraction, Neutral(0.0)] = 0.5
    color_jitter: Annotated[NotNegative, Neutral(0.0)] = 0.0
    auto_augment: Annotated[str | None, AbsentText, Neutral(None)] = None
    reprob: Annotated[Fraction, Neutral(0.0)] = 0.0
    mixup: Annotated[NotNegative, Neutral(0.0)] = 0.0
    cutmix: Annotated[NotNegative, Neutral(0.0)] = 0.0
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"

    @model_validator(mode="after")
    def _crops(self) -> Self:
        if (self.crop == "pad") != (self.pad > 0):
            raise ValueError('crop = "pad" and a positive pad belong together')
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low:g} is above {high:g}")
        return self


class Evaluation(Table):
    """The making of test images (resize to `image_size / crop_pct`, centre crop), and how often they are evaluated.

    Attributes:
        corruptions: noises under which students are tested too when their training ends, as `cakdbench evaluate` takes
            them: KIND (five severities), KIND:SEVERITY or KIND=STRENGTH.
    """

    crop_pct: Annotated[float, Field(gt=0, le=1)]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    every: Count = 1
    corruptions: Annotated[Corruptions, Neutral(())] = ()


class DefaultFor(Table):
    """The recipe is taken for these students when nothing else says which."""

    dataset: str
    kinds: tuple[Kind, ...] = ("cnn", "msa", "mlp")


class Recipe(Table):
    """One training protocol.

    Attributes:
        global_batch: images per optimizer step, over all processes and accumulation.
        local_batch: images that see each other: batch norm, mixup, and relations between samples.
        init: "random"; "hub" if training starts from the ImageNet weights of timm's hub (fine-tuning); "file:PATH" from
            a checkpoint; "run:KEY" or "run:METHOD:PAIR" from the student of a finished run. A key has the content:
            "sha256:...".
        init_head: "keep" the head of a file or run, which then must have the dataset's classes, or begin a "new" one. A
            head of the hub with other classes always begins anew, as timm makes it.
        drop_path: stochastic depth of the network in training.
        split: where networks of equal blocks are cut into stages: as OFA does (after blocks 1, 3, n-3, n-1), or evenly.
        clip_grad: the largest norm of the gradient.
        ema_decay: of an exponential average of the weights, evaluated beside them.
        teacher_norm: the teacher's images are normalised as in its training ("own") or as the student's
            ("shared").
    """

    name: str
    title: str
    source: str
    notes: str = ""
    default_for: tuple[DefaultFor, ...] = ()
    image_size: Count
    epochs: Count
    global_batch: Count
    local_batch: Count
    init: Annotated[str, Neutral("random")] = "random"
    init_head: Annotated[Literal["keep", "new"], Neutral("keep")] = "keep"
    optimizer: Optimizer
    schedule: Schedule
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Neutral(0.0)] = 0.0
    drop_path: Annotated[float, Field(ge=0, lt=1), Neutral(0.0)] = 0.0
    split: Annotated[Literal["ofa", "even"], Neutral("ofa")] = "ofa"
    clip_grad: Annotated[Positive | None, Absent, Neutral(None)] = None
    ema_decay: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Absent, Neutral(None)] = None
    teacher_norm: Annotated[Literal["own", "shared"], Neutral("own")] = "own"
    augment: Augment
    evaluation: Evaluation

    @field_validator("init")
    @classmethod
    def _initial(cls, init: str) -> str:
        if not INIT.fullmatch(init):
            raise ValueError("write random, hub, file:PATH, run:KEY or run:METHOD:PAIR")
        return init

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.init_head == "new" and self.init in ("random", "hub"):
            raise ValueError('init_head = "new" is for an init of file:PATH or run:KEY')
        if self.global_batch % self.local_batch:
            raise ValueError(
                f"local_batch {self.local_batch} does not divide global_batch {self.global_batch}; "
                f"take one of {', '.join(map(str, _divisors(self.global_batch)))}"
            )
        return self

    def numbers(self) -> dict[str, Any]:
        """Return everything that can change a result, as JSON values."""
        return self.model_dump(mode="json", exclude={"name", *DESCRIPTION})

    def identity(self) -> dict[str, Any]:
        """Return the numbers as a run's key holds them: without those that are neutral."""
        return identity_of(self.numbers())

    def override(self, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with other numbers, under the same name.

        Args:
            values: by dotted name (`optimizer.lr`); text is read as what the setting holds.

        Raises:
            UsageError: unknown name (the nearest are given), wrong type, or numbers that do not fit together.
        """
        numbers, known = self.numbers(), recipe_settings()
        for key, value in values.items():
            if key not in known:
                raise unknown("recipe setting", key, known)
            *tables, name = key.split(".")
            target = numbers
            for table in tables:
                target = target[table]
            target[name] = _value(value) if isinstance(value, str) else value
        described = self.model_dump(mode="json", include={"name", *DESCRIPTION})
        changed = ", ".join(f"{key}={value}" for key, value in values.items())
        return checked(Recipe, described | numbers, f"recipe {self.name} with {changed}")


def identity_of(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's numbers without those that are neutral."""
    return strip_neutral(Recipe, numbers)


def all_numbers(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a run's recipe, those that its identity leaves out included; see `Recipe.identity`."""
    return fill_neutral(Recipe, identity)


def recipe_settings() -> list[str]:
    """Return the dotted names `override` knows."""
    return [key for key in setting_keys(Recipe) if key not in ("name", *DESCRIPTION)]


def _value(text: str) -> Any:
    """Return the value that a text stands for: a JSON value, a number, a comma list, or the text itself."""
    for read in (json.loads, float):
        try:
            return read(text.strip().lower())
        except ValueError:
            continue
    return [_value(part) for part in text.split(",")] if "," in text else text.strip()


def _divisors(number: int) -> Iterator[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)
