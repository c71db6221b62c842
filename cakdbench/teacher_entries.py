"""The registry of teachers: where each one's weights come from, and what is expected of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from cakdbench.errors import UsageError
from cakdbench.recipes import load_recipe
from cakdbench.suites import TIMM, check_dataset, check_model
from cakdbench.tomlio import PAIRS_DIR, Table, checked, inside, read_toml

TRAINED_TOLERANCE, FOREIGN_TOLERANCE = 0.1, 0.5
"""Points of accuracy: for teachers trained here, and for other people's files (their test transform is not ours)."""

SOURCES = ("hub", "url", "path", "train")
Percent = Annotated[float, Field(ge=0, le=100)]


class Reported(Table):
    """What somebody else measured for the same weights, in percent."""

    accuracy: Percent
    by: str


class TeacherEntry(Table):
    """One teacher; exactly one of `hub`, `url`, `path` and `train` says where its weights come from.

    Attributes:
        model: a model id or `timm:NAME`; `resnet50:tv` is the model resnet50 with other weights than `resnet50`.
        hub: a timm tag.
        path: a weight file; a relative one is taken from the folder of the TOML file.
        train: the recipe it is trained by on first use.
        file: the name a downloaded file gets.
        accuracy: expected top-1 in percent; None if nobody stated it, and nothing is expected.
        tolerance: points by which the measured accuracy may differ.
    """

    model: str
    dataset: str
    hub: str | None = None
    url: str | None = None
    path: str | None = None
    train: str | None = None
    file: str | None = None
    accuracy: Percent | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    reported: tuple[Reported, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(SOURCES)} (given: {', '.join(given) or 'none'})")
        if self.train and self.accuracy is not None:
            raise ValueError("a trained teacher is expected to reach what its own record says; leave accuracy out")
        return self

    @property
    def zoo_model(self) -> str:
        """The model, without the name of the weights."""
        return self.model if self.model.startswith(TIMM) else self.model.partition(":")[0]

    @property
    def allowed(self) -> float:
        """Points by which the measured accuracy may differ."""
        default = TRAINED_TOLERANCE if self.train else FOREIGN_TOLERANCE
        return default if self.tolerance is None else self.tolerance

    @property
    def source(self) -> str:
        """The one source, for readers."""
        return f"trained by {self.train}" if self.train else self.hub or self.url or self.path


class _TeacherFile(Table):
    teachers: tuple[TeacherEntry, ...]


def load_teachers(extra: Iterable[Path] = ()) -> dict[tuple[str, str], TeacherEntry]:
    """All entries by (model, dataset); those of `extra` files win over the registry's, later files over earlier.

    Raises:
        UsageError: names the file and the key that is wrong.
    """
    entries: dict[tuple[str, str], TeacherEntry] = {}
    for path in (PAIRS_DIR / "teachers.toml", *extra):
        entries.update(teachers_from_file(Path(path)))
    return entries


def teachers_from_file(path: Path) -> dict[tuple[str, str], TeacherEntry]:
    """The entries of one file.

    Raises:
        UsageError: names the file and the key that is malformed, unknown, or names what does not exist.
    """
    found: dict[tuple[str, str], TeacherEntry] = {}
    for number, entry in enumerate(checked(_TeacherFile, read_toml(path), path).teachers, 1):
        key = f"teachers[{number}]"
        try:
            check_model(entry.zoo_model)
            check_dataset(entry.dataset)
            if entry.train:
                load_recipe(entry.train)
        except UsageError as error:
            raise inside(path, key, error) from error
        if (entry.model, entry.dataset) in found:
            raise UsageError(f"{path}: {key}: {entry.model} on {entry.dataset} has an entry above")
        if entry.path:
            entry = entry.model_copy(update={"path": str(path.parent / Path(entry.path).expanduser())})
        found[entry.model, entry.dataset] = entry
    return found
