"""Write and remove entries in a file of teachers; what people wrote into it stays as it is."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from cakdbench.grid.teachers import TeacherEntry, teachers_from_file
from cakdbench.store import write_atomic
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import toml_lines

Name = tuple[str, str]
"""Model and dataset."""
OWN_FILE = "teachers.toml"
"""In a store: the teachers that were trained there otherwise than the registry says."""
_TABLE = re.compile(r"(?m)^(?=\[\[teachers\]\])")


def own_files(store: Path, extra: Iterable[Path]) -> list[Path]:
    """Return the files with teachers of the user's own: that of a store's folder, if it has one, and the named ones."""
    own = store / OWN_FILE
    return [*([own] if own.is_file() else []), *extra]


def put_entry(path: Path, entry: TeacherEntry) -> None:
    """Write an entry into a file, in the place of the one of the same model and dataset or at the end.

    Raises:
        UsageError: the file is malformed.
    """
    head, tables = _tables(path)
    tables[entry.model, entry.dataset] = _toml(entry)
    _write(path, head, tables)


def remove_entry(path: Path, model: str, dataset: str) -> bool:
    """Remove an entry from a file; False if it has none of that name."""
    head, tables = _tables(path)
    if tables.pop((model, dataset), None) is None:
        return False
    _write(path, head, tables)
    return True


def _write(path: Path, head: str, tables: Mapping[Name, str]) -> None:
    write_atomic(path, "".join([head, *(f"{table.rstrip()}\n\n" for table in tables.values())]).encode())


def _tables(path: Path) -> tuple[str, dict[Name, str]]:
    """Return what stands before the first entry of a file, and the text of every entry."""
    if not path.is_file():
        return "", {}
    names = list(teachers_from_file(path))
    head, *tables = _TABLE.split(path.read_text(encoding="utf-8"))
    if len(tables) != len(names):
        raise UsageError(f"{path}: write every entry below a line [[teachers]], so that one can be changed")
    return head, dict(zip(names, tables))


def _toml(entry: TeacherEntry) -> str:
    return "\n".join(["[[teachers]]", *toml_lines(entry.model_dump(mode="json", exclude_defaults=True), "teachers")])
