"""The maintainers' list: which entries they have checked, as they were, and which teachers' weights they accept."""

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, StringConstraints, ValidationError

from cakdbench.store import write_atomic
from cakdbench.submissions.entry import Outside
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import check_values, read_file
from cakdbench.utils.errors import StoreError
from cakdbench.utils.toml import toml_lines

STATUS_FILE = "status.toml"
CLAIMED, EXTERNAL = "claimed", "external"
RESCORED: Literal["re-scored"] = "re-scored"
LIMIT = 2**23

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Date = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]

TeacherName = tuple[str, str, int, str]
"""What decides a teacher's weights: model, dataset, image size and precision."""


class Verdict(Outside):
    """The maintainers' judgement of an entry: `sha256` is its file's."""

    key: str
    sha256: Sha256
    status: Literal["re-scored", "re-run"]
    date: Date
    note: str = ""


class AcceptedTeacher(Outside):
    """Weights that entries on a teacher may have been taught by."""

    model: str
    dataset: str
    image_size: int
    precision: Literal["fp32", "bf16"] = "fp32"
    sha256: Sha256
    note: str = ""

    @property
    def name(self) -> TeacherName:
        return self.model, self.dataset, self.image_size, self.precision

    @classmethod
    def named(cls, name: TeacherName, sha256: str) -> "AcceptedTeacher":
        """Return the line that accepts weights of a teacher."""
        return cls.model_validate(dict(zip(("model", "dataset", "image_size", "precision"), name)) | {"sha256": sha256})


class Verdicts(Outside):
    entries: tuple[Verdict, ...] = ()
    teachers: tuple[AcceptedTeacher, ...] = ()

    def by_key(self) -> dict[str, Verdict]:
        return {verdict.key: verdict for verdict in self.entries}

    def by_teacher(self) -> dict[TeacherName, str]:
        """Return the accepted sha256 of each teacher's weights."""
        return {line.name: line.sha256 for line in self.teachers}


def status_of(verdict: Verdict | None) -> str:
    """Return the status of an entry: claimed as long as it is not listed."""
    return verdict.status if verdict else CLAIMED


def read_verdicts(root: Path) -> Verdicts:
    """Return the list of a results folder; an empty one if there is none.

    Raises:
        Refused: the file is not readable or malformed.
    """
    path = root / STATUS_FILE
    if not os.path.lexists(path):
        return Verdicts()
    try:
        table = tomllib.loads(read_file(path, LIMIT).decode("utf-8"))
        check_values(table)
        verdicts = Verdicts.model_validate_json(json.dumps(table, default=str), strict=True)
    except (ValidationError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise Refused(f"is malformed ({reason})", "restore the maintainers' file") from error
    if len({verdict.key for verdict in verdicts.entries}) < len(verdicts.entries):
        raise Refused("lists an entry twice", "keep one line for each")
    if len(verdicts.by_teacher()) < len(verdicts.teachers):
        raise Refused("lists a teacher twice", "keep the weights that all of its students share")
    return verdicts


def sure_verdicts(root: Path) -> Verdicts:
    """Return the list of a results folder for who writes by it: statuses unread are not statuses absent.

    Raises:
        StoreError: the file is not readable or malformed.
    """
    try:
        return read_verdicts(root)
    except Refused as error:
        raise StoreError(f"{root / STATUS_FILE} {error}; nothing was written") from error


def write_verdicts(root: Path, verdicts: Verdicts) -> None:
    parts = [_toml("teachers", line) for line in verdicts.teachers] + [_toml("entries", v) for v in verdicts.entries]
    write_atomic(root / STATUS_FILE, "\n".join(["# Kept by the maintainers: see ../RULES.md.\n", *parts]).encode())


def _toml(name: str, table: BaseModel) -> str:
    return "".join(f"{line}\n" for line in (f"[[{name}]]", *toml_lines(table.model_dump(exclude_defaults=True))))
