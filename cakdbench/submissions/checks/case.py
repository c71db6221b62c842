"""An entry under examination, beside what the receiving side knows of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

from cakdbench.data.datasets import DatasetFacts
from cakdbench.grid.suites import TIMM
from cakdbench.method import Method
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import Recipe
from cakdbench.records import Identity, Record
from cakdbench.registry import get_method
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.findings import Problem, Refused
from cakdbench.submissions.truth import Truth, bare_model, known_facts, read_recipe
from cakdbench.utils.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """An entry and its context: what is unknown is None, with a problem if it should be known.

    Attributes:
        recipe: the record's numbers.
        method: the installed method of the record's id.
        labels: `(N,)` uint16 classes of the test images.
        images: in the training and the test set, if known.
        student: without weights; so is the teacher.
        accepted: whether maintainers have listed the entry as it is.
    """

    entry: EntryFile
    now: datetime
    accepted: bool
    problems: tuple[Problem, ...]
    recipe: Recipe | None
    method: type[Method] | None
    facts: DatasetFacts | None
    labels: np.ndarray | None
    student: StagedModel | None
    teacher: StagedModel | None

    @property
    def record(self) -> Record:
        return self.entry.record

    @property
    def identity(self) -> Identity:
        return self.record.identity

    @property
    def test_images(self) -> int:
        """Return the size of the test set as the receiving side knows it; else as many as there are predictions."""
        if self.labels is not None:
            return len(self.labels)
        return self.facts.n_test if self.facts else len(self.entry.predictions)

    @property
    def classes(self) -> int | None:
        return class_count(self.facts, self.labels)

    @property
    def steps_per_epoch(self) -> int | None:
        if self.recipe is None or self.facts is None:
            return None
        return self.facts.n_train // self.recipe.global_batch or None


def class_count(facts: DatasetFacts | None, labels: np.ndarray | None) -> int | None:
    if facts:
        return facts.num_classes
    return None if labels is None or not len(labels) else int(labels.max()) + 1


def open_case(entry: EntryFile, truth: Truth, now: datetime, accepted: bool) -> Case:
    """Look up all that is known of an entry's data, method, recipe and models."""
    identity = entry.record.identity
    problems: list[Problem] = []
    data = identity.dataset

    def attempt(look: Callable[..., T], *arguments: object) -> T | None:
        try:
            return look(*arguments)
        except Refused as error:
            problems.append(error.problem)
            return None

    facts = known_facts(data.name)
    if facts is None and not data.name.startswith(TIMM):
        problems.append(Problem(f"the dataset {data.name} is unknown", "see `cakdbench list datasets`"))
    labels = attempt(truth.test_labels, data.name, data.fingerprint)
    recipe = attempt(read_recipe, entry.record.recipe_name, identity.recipe)
    student = teacher = None
    if recipe and (classes := class_count(facts, labels)):
        sizes = classes, recipe.image_size, recipe.split
        student = attempt(bare_model, identity.student, *sizes)
        if identity.teacher:
            teacher = attempt(bare_model, model_of(identity.teacher.model), *sizes)
    method = _method(identity.method.id)
    return Case(entry, now, accepted, tuple(problems), recipe, method, facts, labels, student, teacher)


def model_of(teacher: str) -> str:
    """Return the model of a teacher, without the name of its weights."""
    return teacher if teacher.startswith(TIMM) else teacher.partition(":")[0]


def _method(id: str) -> type[Method] | None:
    try:
        method = get_method(id)
    except UsageError:
        return None
    return method if method.id == id else None  # an alias is no id of a record
