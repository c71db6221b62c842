"""An entry under examination, beside what the receiving side knows of it."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from cakdbench.data.datasets import FACTS
from cakdbench.grid.pairs import TIMM
from cakdbench.grid.teachers import zoo_model
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel
from cakdbench.registry import method_of_record
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.findings import Problem, Refused
from cakdbench.submissions.normal import read_recipe
from cakdbench.submissions.truth import Truth, bare_model
from cakdbench.utils.errors import UsageError

T = TypeVar("T")


class Case:
    """An entry and its context: what is unknown is None, with a problem if it should be known.

    Args:
        accepted: maintainers have listed the entry as it is.

    Attributes:
        facts: of the dataset. labels: `(N,)` uint16 classes of the test images.
        recipe: the record's numbers. method: the installed method of the record's id.
        student, teacher: without weights.
    """

    def __init__(self, entry: EntryFile, truth: Truth, now: datetime, accepted: bool):
        self.entry = entry
        self.record = entry.record
        self.identity = identity = entry.record.identity
        self.now = now
        self.accepted = accepted
        self.problems: list[Problem] = []
        data = identity.dataset
        self.facts = FACTS.get(data.name)
        if self.facts is None and not data.name.startswith(TIMM):
            self.problems.append(Problem(f"the dataset {data.name} is unknown", "see `cakdbench list datasets`"))
        self.labels = self._attempt(truth.test_labels, data.name, data.fingerprint)
        self.recipe = self._attempt(read_recipe, entry.record.recipe_name, identity.recipe)
        self.method = self._attempt(method_of_record, identity.method.id)
        self.student = self._model(identity.student)
        taught = (identity.teacher.several or (identity.teacher,)) if identity.teacher else ()
        models = [self._model(zoo_model(teacher.model)) for teacher in taught]
        self.teacher = join(filter(None, models)) if all(models) and models else None

    @property
    def test_images(self) -> int:
        """Return the size of the test set as the receiving side knows it; else as many as there are predictions.

        Of the images that could not be read nobody here knows how many were test images.
        """
        if self.labels is not None:
            return len(self.labels)
        predicted = len(self.entry.predictions)
        return min(max(predicted, self.facts.n_test - self._skipped), self.facts.n_test) if self.facts else predicted

    @property
    def classes(self) -> int | None:
        if self.facts:
            return self.facts.num_classes
        return None if self.labels is None or not len(self.labels) else int(self.labels.max()) + 1

    @property
    def steps_per_epoch(self) -> int | None:
        if self.recipe is None or self.facts is None:
            return None
        most, least = (n // self.recipe.global_batch for n in (self.facts.n_train, self.facts.n_train - self._skipped))
        return most if most == least and most else None

    @property
    def _skipped(self) -> int:
        """Return how many images were left out at most, of training and test images together."""
        return max(0, self.identity.dataset.skipped or 0)

    def _attempt(self, look: Callable[..., T], *arguments: object) -> T | None:
        try:
            return look(*arguments)
        except Refused as error:
            self.problems.append(error.problem)
        except UsageError as error:
            self.problems.append(Problem(str(error)))
        return None

    def _model(self, name: str) -> StagedModel | None:
        if self.recipe is None or not self.classes:
            return None
        return self._attempt(bare_model, name, self.classes, self.recipe.image_size, self.recipe.split)
