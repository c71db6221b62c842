"""Conflicts of printed numbers with each other, with the text around them, or with the released settings."""

from functools import cache
from pathlib import Path
from typing import Literal

from cakdbench.published.ledger import PUBLISHED_DIR, Line, Row, ablations, accuracies, averages, costs
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table, checked, read_toml

FILES = {"accuracy": accuracies, "ablations": ablations, "averages": averages, "costs": costs}


class Cell(Table):
    """Printed numbers, by the columns of their rows; an empty one may have any value.

    Attributes:
        file: table of the ledger. value: as printed.
        metric: in `costs`, the column the value stands in; there, `method` is the branch.
    """

    file: Literal["accuracy", "ablations", "averages", "costs"] = "accuracy"
    source: str
    table: str
    dataset: str = ""
    mode: str = ""
    panel: str = ""
    setting: str = ""
    teacher: str = ""
    student: str = ""
    method: str = ""
    model: str = ""
    metric: str = ""
    value: str

    def rows(self) -> list[Row]:
        """Return the rows of the ledger that hold this number."""
        columns = {key: value for key, value in self.model_dump(exclude={"file"}).items() if value}
        if self.file == "costs":
            columns[columns.pop("metric")] = columns.pop("value")
            columns |= {"branch": columns.pop("method")} if self.method else {}
        rows = FILES[self.file]()
        return [row for row in rows if all(getattr(row, key, None) == value for key, value in columns.items())]


class Conflict(Table):
    """One disagreement.

    Attributes:
        id: "2.1"; the number before the point is the section of the page.
        kind: one cell in two sources, or in two places of one source; a claim of a text against tables; an average
            that does not recompute; settings; a damaged place; or something that is odd without contradicting anything.
        subject: in a few words. claim: what the text says. cells: the printed numbers concerned.
        remark: what was found. reading: how the boards read it.
        used: the values read as right, where the boards choose.
        protocol, setting: the protocol and the setting it is about, where it is about one.
    """

    id: str
    kind: Literal["sources", "places", "claim", "average", "settings", "damaged", "odd"]
    subject: Line
    claim: Line = ""
    cells: tuple[Cell, ...] = ()
    remark: Line
    reading: Line = ""
    used: tuple[str, ...] = ()
    protocol: str = ""
    setting: str = ""


@cache
def conflicts(path: Path = PUBLISHED_DIR / "conflicts.toml") -> tuple[Conflict, ...]:
    """Return the conflicts in the order of the file.

    Raises:
        UsageError: names the file, the entry and what is wrong: a key, an id twice, a cell the ledger does not hold.
    """
    by_id: dict[str, Conflict] = {}
    for number, table in enumerate(read_toml(path).get("conflicts", []), 1):
        where = f"{path}: conflict {table.get('id', number)}"
        conflict = checked(Conflict, table, where)
        if conflict.id in by_id:
            raise UsageError(f"{where} is there twice; give each an id of its own")
        for cell in conflict.cells:
            if not cell.rows():
                columns = ", ".join(f"{key} {value}" for key, value in cell.model_dump().items() if value)
                raise UsageError(f"{where}: the ledger has no such number: {columns}")
        by_id[conflict.id] = conflict
    return tuple(by_id.values())
