"""The record of a finished run: one small JSON file, checked against this schema whenever it is read."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cakdbench.labels import id_problem
from cakdbench.recipes import all_numbers
from cakdbench.utils.corruptions import SEVERITIES, Corruption
from cakdbench.utils.privacy import without_folders

ENGINE_VERSION = 1
"""Part of every run's key: raise it when a change of the engine can change results."""
FORMAT: Literal[2] = 2
"""Of record files: raise it when a field changes, and teach `results/migrate.py` to read the one before."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _method_id(id: str) -> str:
    if problem := id_problem(id):
        raise ValueError(problem)
    return id


def _left_out(values: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Return the values without those that are None: records of before they were kept stay as they are."""
    return {name: value for name, value in values.items() if name not in optional or value is not None}


class MethodIdentity(_Part):
    """A method and its settings, without those that are neutral (see `utils/neutral.py`).

    What the method computes is named by the version of a built-in method, or by the sha256 of another's source.
    """

    id: Annotated[str, AfterValidator(_method_id)]
    version: int | None = None
    source: str | None = None
    config: dict[str, Any]

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.version is None) == (self.source is None):
            raise ValueError("a method is identified by its version or by its source: give one of them")
        return self


class DatasetIdentity(_Part):
    """The data a run has seen; `skipped` counts images that could not be read and were left out (None: no image)."""

    name: str
    fingerprint: str
    skipped: int | None = None


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of the channels."""


class TeacherIdentity(_Part):
    """A teacher's weights, and what it is fed with.

    That is: mean and deviation per channel (None: the dataset's), and pixels (None: the recipe's). `source` is the
    sha256 of the code of a network of the user's own. Of several teachers at once, `several` has each; `model` joins
    their names by `+`, and `sha256` is the hash of theirs.
    """

    model: str
    sha256: str
    statistics: Statistics | None = None
    image_size: int | None = None
    source: str | None = None
    several: tuple["TeacherIdentity", ...] | None = None

    @classmethod
    def join(cls, teachers: Sequence["TeacherIdentity"]) -> "TeacherIdentity":
        """Return the identity of one teacher as it is, of several as one."""
        if len(teachers) == 1:
            return teachers[0]
        digest = hashlib.sha256(" ".join(teacher.sha256 for teacher in teachers).encode()).hexdigest()
        return cls(model="+".join(teacher.model for teacher in teachers), sha256=digest, several=tuple(teachers))

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if name != "several" or value is not None}


class Identity(_Part):
    """Everything that can change a run's result, and nothing else: the run's key is its hash.

    Settings of the method and of the recipe that have their neutral value are left out, so that a key outlives settings
    that are added later. `teacher` is None for a method that needs none. `student_source` is the sha256 of the code of
    a network of the user's own.
    """

    engine_version: int = ENGINE_VERSION
    method: MethodIdentity
    student: str
    student_source: str | None = None
    teacher: TeacherIdentity | None = None
    dataset: DatasetIdentity
    recipe: dict[str, Any]
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int

    @property
    def pair(self) -> str:
        """`TEACHER>STUDENT@DATASET`, as on the command line; without a teacher `STUDENT@DATASET`."""
        student = f"{self.student}@{self.dataset.name}"
        return f"{self.teacher.model}>{student}" if self.teacher else student


class TeacherFacts(_Part):
    """The teacher's verification; accuracies in percent."""

    measured: float
    expected: float | None
    tolerance: float
    source: Annotated[str, AfterValidator(without_folders)]
    mismatch_allowed: bool = False
    standard: bool = True
    """True for the registry's teacher, made as the registry says."""
    measured_top5: float | None = None
    """Left out where it was not kept."""

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _left_out(write(self), "measured_top5")


class Tuning(_Part):
    """How a method's settings were found: by so many trials on these pairs, whose test set was held out of training."""

    trials: Annotated[int, Field(ge=1)]
    pairs: tuple[str, ...]


class Epoch(_Part):
    """One line of the history. Losses are means over the epoch's steps, accuracies are in percent."""

    epoch: int
    lr: float
    losses: dict[str, float]
    train_top1: float
    top1: float | None = None
    ema_top1: float | None = None


class Corrupted(_Part):
    """Accuracies on the test set under a noise in percent, after the last epoch; see `utils/corruptions.py`."""

    kind: str
    strength: float
    severity: int | None
    top1: float
    top5: float
    ema_top1: float | None = None

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.kind not in SEVERITIES or self.severity != self.corruption.severity:
            raise ValueError(f"no corruption is {self.kind} of strength {self.strength:g}, severity {self.severity}")
        return self

    @property
    def corruption(self) -> Corruption:
        return Corruption(self.kind, self.strength)


class Result(_Part):
    """Accuracies on the test set in percent. `top1` is the last epoch's: the metric of every board."""

    top1: float
    top5: float
    ema_top1: float | None = None
    optimistic_top1: float
    """Best epoch chosen on the test set: stored because papers print it, never ranked."""
    optimistic_epoch: int
    networks: dict[str, float] | None = None
    """Top-1 of further networks that the method evaluates, by their names, as FBT's assistant; left out where none."""
    corruptions: Annotated[tuple[Corrupted, ...], Field(min_length=1)] | None = None
    """Under each of the recipe's `evaluation.corruptions`, in its order; left out where none."""

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _left_out(write(self), "networks", "corruptions")


class Conditions(_Part):
    """The circumstances of the run; none of it is part of the key."""

    device: str
    processes: int
    threads: int
    versions: dict[str, str]
    compiled: bool = False
    channels_last: bool = False
    lanes: list[str]
    """Methods trained beside this one in the same pass over the data, itself included."""
    seconds: float
    """Wall time of this lane's own steps and evaluations, its share of data and teacher left out."""
    images_per_second: float
    """Training images through this lane's own steps per second."""
    peak_memory_mb: float | None = None
    """2^20 bytes at the peak of this lane's steps with the teacher, without what other lanes hold; None on a CPU."""
    energy_wh: float | None = None
    """This lane's share, by time, of what the GPUs drew during the run; None where the device does not report it."""
    finished: str
    """UTC, ISO 8601."""


class Record(_Part):
    format: Literal[2] = FORMAT
    key: str
    identity: Identity
    label: str
    """The method and what is changed of it, `fbt:no_infonce`: a name for readers, no part of the key."""
    method_source: str
    """sha256 of the source of the method, for the eye; a built-in method is identified by its version."""
    recipe_name: str
    class_names: tuple[str, ...] | None = None
    """In the order of the student's outputs; None for a dataset that comes with cakdbench."""
    tuning: Tuning | None = None
    """Of settings that `cakdbench tune` found: a remark, no part of the key; left out where none."""
    teacher: TeacherFacts | None
    student_parameters: int
    extra_parameters: int
    result: Result
    history: list[Epoch]
    predictions_sha256: str
    """Of `predictions.npy`: the predicted class of every test image, in order, uint16."""
    weights_sha256: str
    """Of the exported student's tensors, in name order."""
    conditions: Conditions

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = write(self)
        return {name: value for name, value in values.items() if name != "tuning" or value is not None}

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's numbers, the neutral ones included."""
        return all_numbers(self.identity.recipe)
