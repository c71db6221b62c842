"""The files of `leaderboards/published`: rows of printed numbers and the texts they come from, read and checked.

Values stay the strings that were printed: 76.8 is not 76.80. Every reader takes the path of a file of the same form,
and raises UsageError naming the file and the line of the first row that is damaged, or there twice.
"""

import csv
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import Table, checked, inside, read_toml

PUBLISHED_DIR = Path(str(files("cakdbench.published.data")))
"""The folder of the ledger."""

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
Percent = Annotated[str, Field(pattern=r"^(100(\.0+)?|\d{1,2}(\.\d+)?)$")]
Dataset = Literal["cifar100", "imagenet1k"]
Family = Literal["ofa", "sakd-imagenet", "pcagl"]


class Row(Table):
    """A row of a table of the ledger; `key` is what may be there only once."""

    source: Text
    table: Text

    def key(self) -> tuple[str, ...]:
        """Everything but what is printed and remarked."""
        return tuple(self.model_dump(exclude={"value", "note", "printed_as"}).values())


class Printed(Row):
    """An accuracy as printed.

    Attributes:
        source, table: key of `sources.toml`; the table's name in the source.
        protocol: the family of settings; numbers of different families are not comparable.
        mode, panel: block and half of PCA/GL's tables, else empty.
        teacher, student: ids of the zoo or of `names.toml`.
        method: id of the registry or of `names.toml`; `printed_as` is its label in the source.
        value: percent, as printed.
    """

    dataset: Dataset
    protocol: Family
    mode: str
    panel: Literal["", "left", "right"]
    teacher: Text
    student: Text
    method: Text
    printed_as: Text
    metric: Literal["top1", "top5"]
    value: Percent
    note: str

    @property
    def number(self) -> float:
        """The accuracy in percent."""
        return float(self.value)

    @property
    def decimals(self) -> int:
        """How many digits are printed after the point."""
        return len(self.value.partition(".")[2])


class Ablation(Row):
    """A number of an ablation table; `delta_full` is the printed difference to the full method."""

    setting: Text
    dataset: Dataset
    teacher: str
    student: Text
    metric: Literal["top1", "teacher_top1", "assistant_top1", "student_top1", "delta_full", "delta_top1", "memory_gb"]
    value: Number
    note: str


class Average(Row):
    """A printed average gain over the scratch student, in points.

    Attributes:
        pairs: how many pairs the table shows.
        repeats: source and table ("tas Table 1") whose average this is, where a table shows only part of it.
    """

    dataset: Dataset
    method: Text
    printed_as: Text
    pairs: Annotated[str, Field(pattern=r"^\d+$")]
    value: Number
    repeats: str
    note: str


class Cost(Row):
    """Printed costs: of an extra training branch for a pair, or of a model; millions of parameters, GFLOPs."""

    kind: Literal["branch", "model"]
    role: Literal["", "teacher", "student"]
    model: str
    teacher: str
    student: str
    student_params_m: Number | Literal[""]
    student_flops_g: Number | Literal[""]
    branch: str
    params_m: Number | Literal[""]
    flops_g: Number
    note: str

    def key(self) -> tuple[str, ...]:
        return (self.source, self.table, self.role, self.model, self.teacher, self.student, self.branch)


class OtherTask(Row):
    """A number of a detection, segmentation or anti-spoofing table; no value where only the gain is printed."""

    task: Text
    dataset: Text
    teacher: str
    student: Text
    method: Text
    printed_as: Text
    metric: Literal["AP", "mask AP", "EER"]
    value: Number | Literal[""]
    delta: Number
    delta_metric: Text
    note: str


class Source(Table):
    """A text the numbers come from.

    Attributes:
        mark: the letter that stands for it in tables.
        repetitions: trainings behind a number, None if not stated; `repeated`: of these methods only, if given.
        secondary: whether it only reports what others print.
    """

    key: str
    mark: Annotated[str, Field(pattern=r"^[A-Z]$")]
    citation: Text
    venue: Text
    year: int
    url: str
    repetitions: Annotated[int, Field(gt=0)] | None = None
    repeated: tuple[str, ...] = ()
    secondary: bool = False
    notes: str = ""


R = TypeVar("R", bound=Row)


def accuracies(path: Path = PUBLISHED_DIR / "accuracy.csv") -> tuple[Printed, ...]:
    """Every printed accuracy."""
    return _rows(path, Printed)


def ablations(path: Path = PUBLISHED_DIR / "ablations.csv") -> tuple[Ablation, ...]:
    """Every number of the ablation tables."""
    return _rows(path, Ablation)


def averages(path: Path = PUBLISHED_DIR / "averages.csv") -> tuple[Average, ...]:
    """Every printed average gain."""
    return _rows(path, Average)


def costs(path: Path = PUBLISHED_DIR / "costs.csv") -> tuple[Cost, ...]:
    """Every printed cost."""
    return _rows(path, Cost)


def other_tasks(path: Path = PUBLISHED_DIR / "other_tasks.csv") -> tuple[OtherTask, ...]:
    """Every number of the tables of other tasks than classification."""
    return _rows(path, OtherTask)


@cache
def sources(path: Path = PUBLISHED_DIR / "sources.toml") -> dict[str, Source]:
    """The texts, by the key the rows name them by."""
    found = {}
    for key, table in read_toml(path).items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {key}: must be a table, [{key}]")
        found[key] = checked(Source, table | {"key": key}, f"{path}: {key}")
    return found


@cache
def _rows(path: Path, model: type[R]) -> tuple[R, ...]:
    found: dict[tuple[str, ...], int] = {}
    rows = []
    for line, cells in _cells(path, list(model.model_fields)):
        row = checked(model, cells, f"{path}: line {line}")
        if row.source not in sources():
            raise inside(path, f"line {line}", unknown("source", row.source, sources()))
        if row.key() in found:
            raise UsageError(f"{path}: line {line}: the same cell as line {found[row.key()]}; remove one of them")
        found[row.key()] = line
        rows.append(row)
    return tuple(rows)


def _cells(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row."""
    try:
        reader = csv.reader(StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
    except FileNotFoundError:
        raise UsageError(f"no file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        if next(reader, None) != columns:
            raise UsageError(f"{path}: line 1: the columns must be {','.join(columns)}")
        for cells in reader:
            if len(cells) != len(columns):
                wrong = f"{len(cells)} cells for {len(columns)} columns; quote a cell that holds a comma"
                raise UsageError(f"{path}: line {reader.line_num}: {wrong}")
            yield reader.line_num, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num}: {error}") from error
