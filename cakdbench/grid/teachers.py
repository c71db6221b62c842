"""The registry of teachers: where each one's weights come from, and what is expected of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cakdbench.data.datasets import check_dataset
from cakdbench.data.statistics import Statistics
from cakdbench.grid.pairs import TIMM
from cakdbench.models.zoo import entry as model_entry
from cakdbench.models.zoo import hub_statistics
from cakdbench.recipes import Recipe, all_numbers, load_recipe
from cakdbench.store import KEY
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import PAIRS_DIR, Table, checked, inside, read_toml

TRAINED_TOLERANCE, FOREIGN_TOLERANCE = 0.1, 0.5
"""Points of accuracy: for teachers trained here, and for files of others, whose test transform is another."""

RUN_SOURCE = "run "
"""What the source of a teacher that is the student of a run begins with; its key follows."""
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
SOURCES = ("hub", "url", "path", "train", "run")
Percent = Annotated[float, Field(ge=0, le=100)]


class Reported(Table):
    """The accuracy somebody else measured for the same weights, in percent."""

    accuracy: Percent
    by: str


class TeacherEntry(Table):
    """One teacher; exactly one of `hub`, `url`, `path`, `train` and `run` says where its weights come from.

    Attributes:
        model: a model id or `timm:NAME`; `resnet50:tv` is resnet50 with other weights than plain `resnet50`.
        hub: a timm tag.
        path: a weight file; a relative one is taken from the folder of the TOML file.
        train: the recipe it is trained by on first use: a name, or the path of a file as with `path`.
        run: the key of a finished run of the store, whose student it is.
        recipe: the numbers of that recipe, so that nothing hangs on its file; neutral ones are left out.
        seed, precision: of the training; without a precision that of the runs it teaches.
        sha256: of the weights it must have (`cakdbench teacher check` prints it).
        file: the name a downloaded file gets.
        statistics: mean and deviation that the weights expect, or a timm tag; a hub tag stands for its own.
        image_size: pixels that images are resized to for it alone; None: the size its students see.
        classes: in the order of its head's outputs; None: that of the dataset.
        accuracy: expected top-1 in percent; None if nobody stated it, and nothing is expected.
        tolerance: points by which the measured accuracy may differ.
    """

    model: str
    dataset: str
    hub: str | None = None
    url: str | None = None
    path: str | None = None
    train: str | None = None
    run: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int = 0
    precision: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    file: str | None = None
    statistics: Statistics | None = None
    image_size: Annotated[int, Field(ge=8)] | None = None
    classes: tuple[str, ...] | None = None
    accuracy: Percent | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    reported: tuple[Reported, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [name for name in SOURCES if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"give one of {', '.join(SOURCES)} (given: {', '.join(sources) or 'none'})")
        if self.train and self.accuracy is not None:
            raise ValueError("a trained teacher must reach what its own record says; leave accuracy out")
        if self.recipe is not None and not self.train:
            raise ValueError("recipe has the numbers of a training: name it in train")
        if self.train and self.classes:
            raise ValueError("a trained teacher has the classes of its dataset; leave classes out")
        return self

    @property
    def zoo_model(self) -> str:
        """The model, without the name of the weights."""
        return zoo_model(self.model)

    @property
    def allowed(self) -> float:
        """Points by which the measured accuracy may differ."""
        default = TRAINED_TOLERANCE if self.train or self.run else FOREIGN_TOLERANCE
        return default if self.tolerance is None else self.tolerance

    @property
    def source(self) -> str:
        """The one source, for readers: of a file the name without its folder, which is nobody else's business."""
        if self.train:
            return f"trained by {Path(self.train).stem if self.train.endswith('.toml') else self.train}"
        if self.run:
            return f"{RUN_SOURCE}{self.run}"
        source = self.hub or self.url or Path(self.path or "").name
        assert source  # `_one_source` has seen to it
        return source

    def statistics_beside(self, data: MeanStd, recipe: Recipe) -> MeanStd | None:
        """Return mean and deviation that it is fed with, where they are not those of the data."""
        own = self.statistics.pair if self.statistics else hub_statistics(self.hub) if self.hub else None
        if own is None or recipe.teacher_norm == "shared":
            return None
        (mean, std), (data_mean, data_std) = own, data
        return None if (mean, std) == (tuple(data_mean), tuple(data_std)) else (mean, std)

    def training_recipe(self) -> Recipe:
        """Return the recipe that it is trained by.

        Raises:
            UsageError: there is none of this name, or its numbers are wrong.
        """
        assert self.train, "a teacher from elsewhere is not trained"
        if self.recipe is None:
            return load_recipe(self.train)
        table = all_numbers(self.recipe) | {"name": self.train, "title": self.train, "source": "its teacher's entry"}
        return checked(Recipe, table, "recipe")


def teaching_runs(source: str, teachers: int = 1) -> list[str]:
    """Return the keys of the runs whose students taught, as the source in a record names them, one a teacher.

    It is empty for a teacher from elsewhere, as a file, whose name may have a plus.
    """
    names = source.split(" + ")
    names = names if len(names) == teachers else [""] * teachers
    keys = (name.removeprefix(RUN_SOURCE) if name.startswith(RUN_SOURCE) else "" for name in names)
    return [key if KEY.fullmatch(key) else "" for key in keys]


def zoo_model(teacher: str) -> str:
    """Return the model of a teacher's name, without the name of its weights."""
    return teacher if teacher.startswith(TIMM) else teacher.partition(":")[0]


class _TeacherFile(Table):
    teachers: tuple[TeacherEntry, ...] = ()


class TeacherEntries(dict[tuple[str, str], TeacherEntry]):
    """Entries by (model, dataset). On ImageNet a free timm name needs none: its own hub weights are meant.

    The model, dataset and recipe that an entry names are looked up when it is asked for: those of other entries may
    stand in files of datasets and networks that this command was not given.

    Attributes:
        unchecked: the file of an entry that nobody has asked for yet, and its key there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unchecked: dict[tuple[str, str], tuple[Path, str]] = {}

    def __getitem__(self, name: tuple[str, str]) -> TeacherEntry:
        """Return an entry.

        Raises:
            KeyError: there is none.
            UsageError: it names what does not exist; the message has its file and key.
        """
        entry = super().__getitem__(name)
        if name in self.unchecked:
            try:
                _check_names(entry)
            except UsageError as error:
                raise inside(*self.unchecked[name], error) from error
            del self.unchecked[name]
        return entry

    def __missing__(self, key: tuple[str, str]) -> TeacherEntry:
        model, dataset = key
        if dataset != "imagenet1k" or not model.startswith(TIMM):
            raise KeyError(key)
        return TeacherEntry(model=model, dataset=dataset, hub=model_entry(model).hub)


def load_teachers(extra: Iterable[Path] = ()) -> TeacherEntries:
    """Return all entries; those of `extra` files win over the registry's, later files over earlier.

    Raises:
        UsageError: names the file and the key that is malformed.
    """
    entries = TeacherEntries()
    for path in (PAIRS_DIR / "teachers.toml", *map(Path, extra)):
        found = teachers_from_file(path)
        entries.update(found)
        entries.unchecked |= {name: (path, f"teachers[{number}]") for number, name in enumerate(found, 1)}
    return entries


def teachers_from_file(path: Path) -> dict[tuple[str, str], TeacherEntry]:
    """Return the entries of one file.

    Raises:
        UsageError: names the file and the key that is malformed.
    """
    entries: dict[tuple[str, str], TeacherEntry] = {}
    for number, entry in enumerate(checked(_TeacherFile, read_toml(path), path).teachers, 1):
        name = entry.model, entry.dataset
        if name in entries:
            raise UsageError(f"{path}: teachers[{number}]: {entry.model} on {entry.dataset} has an entry above")
        entries[name] = _placed(entry, path.parent)
    return entries


def _check_names(entry: TeacherEntry) -> None:
    """Raise UsageError if the model, dataset, hub weights or recipe of an entry do not exist."""
    model_entry(entry.zoo_model)
    check_dataset(entry.dataset)
    if entry.hub:
        hub_statistics(entry.hub)
    if entry.train:
        entry.training_recipe()


def _placed(entry: TeacherEntry, folder: Path) -> TeacherEntry:
    """Return an entry whose files, where they are relative, are taken from `folder`."""
    files = {"path": entry.path, "train": entry.train if (entry.train or "").endswith(".toml") else None}
    return entry.model_copy(update={key: str(folder / Path(file).expanduser()) for key, file in files.items() if file})
