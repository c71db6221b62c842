"""Pairs: teachers, a student and a dataset, and the runs that may stand in the place of a teacher."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from cakdbench.data.datasets import check_dataset
from cakdbench.data.holdout import whole_name
from cakdbench.models.ensemble import joined_kind
from cakdbench.models.zoo import entry as model_entry
from cakdbench.models.zoo import model_kind
from cakdbench.utils.errors import UsageError

TIMM = "timm:"
RUN = "run:"
"""What the name of a run begins with: `run:KEY`, or `run:METHOD:PAIR`."""
LONGEST = 9
"""Runs that may name each other in one pair."""
NAMED_RUN = re.compile(rf"{RUN}[^:+>@]+:")
"""How `run:METHOD:PAIR` begins, and `run:KEY` does not."""


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

    @property
    def without_runs(self) -> "Pair":
        """The pair with models in the place of runs, which take as long and as much memory.

        Raises:
            UsageError: one is a run that only its store knows.
        """
        named = zip(self.teachers, self.teacher_models)
        models = (model if name.startswith(RUN) else name for name, model in named)
        return Pair("+".join(models), self.student, self.dataset)

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
        teachers = map(canonical_run, split_teachers(teacher))
        pair = cls("+".join(teachers), student.strip(), dataset.strip())
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
        if teachers and len(NAMED_RUN.findall(teachers[-1])) > teachers[-1].count("@"):
            teachers[-1] += f"+{part}"  # the pair of a run goes on to its dataset
        else:
            teachers.append(part)
    return tuple(teachers)


def named_run(name: str) -> tuple[str, Pair] | None:
    """Return canonical label and pair of the run that `run:METHOD:PAIR` names; None of `run:KEY` and of a model.

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
    found = Pair.parse(pair if method.needs else f"{student.partition('@')[0]}>{student}")
    return _canonical(label, found), found


def run_name(label: str, pair: Pair) -> str:
    """Return `run:METHOD:PAIR`; see `named_run`."""
    from cakdbench.registry import split_variant

    return f"{RUN}{label}:{pair if split_variant(label)[0].needs else f'{pair.student}@{pair.dataset}'}"


def canonical_run(name: str) -> str:
    """Return the one spelling of `run:METHOD:PAIR`, as records have it; other names are returned as they are.

    Raises:
        UsageError: as `named_run`.
    """
    run = named_run(name)
    return run_name(*run) if run else name


class Network(NamedTuple):
    """What a method's settings hang on of a network: its kind."""

    kind: str


def pair_kinds(pair: Pair) -> tuple[Network, Network]:
    """Return what is known of teacher and student by their names alone; several teachers count as one.

    Raises:
        UsageError: a teacher is a run that only its store knows.
    """
    return Network(joined_kind([model_kind(model) for model in pair.teacher_models])), Network(model_kind(pair.student))


def _canonical(label: str, pair: Pair) -> str:
    """Return the one name of a method's settings on a pair; see `registry.canonical_label`."""
    from cakdbench import labels
    from cakdbench.registry import canonical_label, resolve_config, split_variant

    method, variant = split_variant(label)
    if any(name.startswith(RUN) and not named_run(name) for name in pair.teachers):
        return labels.label(method.id, variant)  # only a store knows what the teacher is
    infos = pair_kinds(pair)
    config = resolve_config(method, variant, *infos, pair.dataset)
    return canonical_label(method, config, *infos, pair.dataset)


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
    if run and run[1].dataset not in (pair.dataset, whole_name(pair.dataset)):
        raise UsageError(f"{pair}: the teacher {name} learns {run[1].dataset}, and the student {pair.dataset}")
    if not name.startswith(RUN):
        model_entry(teacher_model(name))
