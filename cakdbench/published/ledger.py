"""The files of `leaderboards/published`: rows of printed numbers and the texts they come from, read and checked.

Values stay the strings that were printed: 76.8 is not 76.80. Every reader takes the path of a file of the same form,
and raises UsageError naming the file and the line of the first row that is damaged, or there twice.
"""

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import Table, checked, read_text, read_toml

PUBLISHED_DIR = Path(str(files("cakdbench.published.data")))
"""The folder of the ledger."""

Text = Annotated[str, Field(min_length=1)]
Line = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]
"""A text that may be written on several lines."""
Number = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
Percent = Annotated[str, Field(pattern=r"^(100(\.0+)?|\d{1,2}(\.\d+)?)$")]
Dataset = Literal["cifar100", "imagenet1k"]
Family = Literal["ofa", "sakd-imagenet", "pcagl"]
PRINTED = {"printed_as", "value", "student_params_m", "student_flops_g", "params_m", "flops_g", "note"}
"""Columns that do not say which cell of a source's table a row is."""


class Row(Table):
    """A row of a table of the ledger."""

    source: Text
    table: Text

    def key(self) -> tuple[str, ...]:
        """Return what tells the row from all others of its file."""
        return tuple(self.model_dump(exclude=PRINTED).values())


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
        """Return the accuracy in percent."""
        return float(self.value)

    @property
    def decimals(self) -> int:
        """Return the number of digits after the point."""
        return len(self.value.partition(".")[2])


class Ablation(Row):
    """A number of an ablation table; `delta_full` is the printed difference to the full method.

    Attributes:
        setting: the row, in the words of the source.
        label: ours, `fbt:no_tf`; empty where nothing of ours is it, and `why` says why.
    """

    setting: Text
    label: str
    dataset: Dataset
    teacher: str
    student: Text
    metric: Literal["top1", "teacher_top1", "assistant_top1", "student_top1", "delta_full", "delta_top1", "memory_gb"]
    value: Number
    why: str
    note: str


class Average(Row):
    """A printed average gain over the scratch student, in points.

    Attributes:
        pairs: number of pairs in the table.
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
        secondary: True if it only reports what others print.
    """

    key: str
    mark: Annotated[str, Field(pattern=r"^[A-Z]$")]
    citation: Line
    venue: Text
    year: int
    url: str
    repetitions: Annotated[int, Field(gt=0)] | None = None
    repeated: tuple[str, ...] = ()
    secondary: bool = False
    notes: Line = ""


R = TypeVar("R", bound=Row)


def accuracies(path: Path = PUBLISHED_DIR / "accuracy.csv") -> tuple[Printed, ...]:
    """Return every printed accuracy."""
    return _rows(path, Printed)


def ablations(path: Path = PUBLISHED_DIR / "ablations.csv") -> tuple[Ablation, ...]:
    """Return every number of the ablation tables."""
    return _rows(path, Ablation)


def averages(path: Path = PUBLISHED_DIR / "averages.csv") -> tuple[Average, ...]:
    """Return every printed average gain."""
    return _rows(path, Average)


def costs(path: Path = PUBLISHED_DIR / "costs.csv") -> tuple[Cost, ...]:
    """Return every printed cost."""
    return _rows(path, Cost)


def other_tasks(path: Path = PUBLISHED_DIR / "other_tasks.csv") -> tuple[OtherTask, ...]:
    """Return every number of the tables of other tasks than classification."""
    return _rows(path, OtherTask)


@cache
def sources(path: Path = PUBLISHED_DIR / "sources.toml") -> dict[str, Source]:
    """Return the texts, by the key that rows name them by."""
    texts = read_toml(path)
    for key, table in texts.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {key}: must be a table, [{key}]")
    return {key: checked(Source, table | {"key": key}, f"{path}: {key}") for key, table in texts.items()}


@cache
def _rows(path: Path, model: type[R]) -> tuple[R, ...]:
    columns, lines = list(model.model_fields), _lines(path)
    if not lines or lines[0] != columns:
        raise UsageError(f"{path}: line 1: the columns must be {','.join(columns)}")
    rows: dict[tuple[str, ...], R] = {}
    for number, cells in enumerate(lines[1:], 2):
        where = f"{path}: line {number}"
        if len(cells) != len(columns):
            wrong = f"{len(cells)} cells for {len(columns)} columns; quote a cell that holds a comma"
            raise UsageError(f"{where}: {wrong}")
        row = checked(model, dict(zip(columns, cells)), where)
        if row.source not in sources():
            raise UsageError(f"{where}: {unknown('source', row.source, sources())}")
        if row.key() in rows:
            raise UsageError(f"{where}: the same cell as line {[*rows].index(row.key()) + 2}; remove one of them")
        rows[row.key()] = row
    return tuple(rows.values())


def _lines(path: Path) -> list[list[str]]:
    """Return the cells of every line; no cell of the ledger has a line break."""
    reader = csv.reader(read_text(path).splitlines(), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num}: {error}") from error
