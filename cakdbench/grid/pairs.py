"""Pairs: teachers, a student and a dataset, and the runs that may stand in the place of a teacher."""

import re
from dataclasses import dataclass, field

from cakdbench.data.datasets import check_dataset
from cakdbench.models.zoo import entry as model_entry
from cakdbench.utils.errors import UsageError

TIMM = "timm:"
RUN = "run:"
"""What the name of a run begins with: `run:KEY`, or `run:METHOD:PAIR`."""
LONGEST = 9
"""Runs that may name each other in one pair."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student on a dataset, written `swin_t>resnet18@cifar100`.

    Models are ids of the zoo or `timm:NAME`. A teacher known with several weights names those it means after
    a colon, as its entry does: `resnet50:tv`. A teacher may be the student of a run: of `run:METHOD:PAIR`, or of the
    finished `run:KEY`. Several teachers are joined: `swin_t+convnext_t>resnet18@cifar100`.

    Attributes:
        models: those of the teachers where a store has to tell, for `run:KEY`; else empty.
    """

    teacher: str
    student: str
    dataset: str
    models: tuple[str, ...] = field(default=(), compare=False)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers, each by itself."""
        return split_teachers(self.teacher)

    @property
    def teacher_models(self) -> tuple[str, ...]:
        """The teachers' models, without the names of their weights.

        Raises:
            UsageError: one is a run that only its store knows.
        """
        return self.models or tuple(map(teacher_model, self.teachers))

    def __str__(self) -> str:
        return f"{self.teacher}>{self.student}@{self.dataset}"

    @classmethod
    def parse(cls, text: str) -> "Pair":
        """Return the pair a text names.

        Raises:
            UsageError: not of the form, or an unknown model or dataset.
        """
        if text.count(RUN) > LONGEST:
            raise UsageError(f"{text[:100]!r}... is a chain of more than {LONGEST} runs")
        teacher, arrow, rest = text.rpartition(">")
        student, at, dataset = rest.partition("@")
        pair = cls("+".join(split_teachers(teacher)), student.strip(), dataset.strip())
        if not (arrow and at and pair.teacher and pair.student and pair.dataset):
            form = "write TEACHER>STUDENT@DATASET, as in swin_t>resnet18@cifar100"
            raise UsageError(f"{text!r} is no pair: {form}")
        for name in pair.teachers:
            _check_teacher(name, pair)
        model_entry(pair.student)
        check_dataset(pair.dataset)
        return pair


def split_teachers(text: str) -> tuple[str, ...]:
    """`swin_t+convnext_t` -> ("swin_t", "convnext_t"); a `+` inside the pair of a run stays there."""
    teachers: list[str] = []
    for part in map(str.strip, text.split("+")):
        if ">" in part and not part.startswith(RUN) and teachers:
            teachers[-1] += f"+{part}"  # the end of the pair of a run that has several teachers
        else:
            teachers.append(part)
    return tuple(teachers)


def named_run(name: str) -> tuple[str, Pair] | None:
    """Return label and pair of the run that `run:METHOD:PAIR` names; None of `run:KEY` and of a model.

    A method without teacher has `run:scratch:STUDENT@DATASET`, which is the pair of a student with itself.

    Raises:
        UsageError: an unknown method, variant, model or dataset.
    """
    if not name.startswith(RUN) or "@" not in name:
        return None
    from cakdbench.registry import split_variant  # here, since a command that only lists pairs needs no methods

    label, pair = _cut(name.removeprefix(RUN))
    variant, rest = _cut(pair)
    if variant.partition("[")[0] in split_variant(label)[0].variants and "[" not in label:
        label, pair = f"{label}:{variant}", rest
    method, _ = split_variant(label)
    student = pair.rpartition(">")[2]
    return label, Pair.parse(pair if method.needs else f"{student.partition('@')[0]}>{student}")


def _cut(text: str) -> tuple[str, str]:
    """`fbt[gamma=2]:no_ts:swin_t` -> ("fbt[gamma=2]", "no_ts:swin_t"); an empty first part where nothing is cut off."""
    part = re.match(r"([^:\[\]]+(?:\[.*?\])?):", text)
    return (part[1], text[part.end() :]) if part else ("", text)


def teacher_model(name: str) -> str:
    """Return the model of a teacher, without the name of its weights.

    Raises:
        UsageError: it is a run that only its store knows.
    """
    if run := named_run(name):
        return run[1].student
    if name.startswith(RUN):
        raise UsageError(f"{name}: a store knows which model this is, and here is none: write run:METHOD:PAIR")
    return name if name.startswith(TIMM) else name.partition(":")[0]


def _check_teacher(name: str, pair: Pair) -> None:
    """Raise UsageError for a teacher of a pair that is no model and no run on its data."""
    run = named_run(name)
    if run and run[1].dataset != pair.dataset:
        raise UsageError(f"{pair}: the teacher {name} learns {run[1].dataset}, and the student {pair.dataset}")
    if not name.startswith(RUN):
        model_entry(teacher_model(name))
