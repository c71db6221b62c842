"""A finished run's student, ready to be fed."""

from dataclasses import dataclass
from pathlib import Path

from cakdbench.data.datasets import dataset_facts, load_dataset
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import Recipe
from cakdbench.records import Record
from cakdbench.store import RunFolder
from cakdbench.students.weights import ImageFacts, read_weights
from cakdbench.utils.errors import CakdError, UsageError


@dataclass(frozen=True)
class Student:
    """A trained student and what it takes to feed it.

    Attributes:
        model: on the CPU, in eval mode.
        averaged: its weights are the exponential average and not those of the last step.
    """

    model: StagedModel
    record: Record
    facts: ImageFacts
    averaged: bool = False

    @property
    def recipe(self) -> Recipe:
        """Return the recipe it was trained by."""
        return Recipe(name=self.record.recipe_name, title="", source="", **self.record.recipe)

    @property
    def top1(self) -> float | None:
        """Return the accuracy of these weights on the test set, in percent."""
        result = self.record.result
        return result.ema_top1 if self.averaged else result.top1


def load_student(run: RunFolder, ema: bool = False, data_dir: Path | None = None) -> Student:
    """Return the student of a finished run.

    Args:
        ema: with the averaged weights, if they were kept.
        data_dir: where the datasets lie; asked for the names of the classes of runs of before they were kept.

    Raises:
        CakdError: the run is not done, or a file is missing or damaged; the message says what to do.
    """
    if not run.is_done:
        raise UsageError(f"{run.key} is {run.state()}: only a run that is done has a student")
    record = run.record()
    path = _weights(run, record, ema)
    run.check_weights(path)
    state, facts = read_weights(path)
    facts = facts or _dataset_facts(record.identity.dataset.name, data_dir)
    numbers = record.recipe
    model = StagedModel(record.identity.student, len(facts.class_names), numbers["image_size"], split=numbers["split"])
    model.load_exported(dict(state))
    return Student(model.eval(), record, facts, ema)


def _weights(run: RunFolder, record: Record, ema: bool) -> Path:
    if not ema:
        return run.student
    if record.recipe["ema_decay"] is None:
        raise UsageError(f"{run.key} has no averaged weights: its recipe {record.recipe_name} has no ema_decay")
    if not run.ema.is_file():
        raise UsageError(f"{run.key}: its averaged weights were not kept; remove {run.path} and run it with --keep ema")
    return run.ema


def _dataset_facts(name: str, data_dir: Path | None) -> ImageFacts:
    """Return the facts of a dataset; of a named one that is not here the classes are numbered."""
    try:
        return ImageFacts.of(load_dataset(name, data_dir, download=False))
    except CakdError as error:
        if name.startswith("timm:"):
            raise UsageError(f"{error}; it is needed for the names of the classes: give --data-dir") from error
        facts = dataset_facts(name)
        return ImageFacts(class_names=tuple(map(str, range(facts.num_classes))), mean=facts.mean, std=facts.std)
