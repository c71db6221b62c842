"""Where printed numbers disagree with each other, with the text around them, or with the released settings."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from cakdbench.published.ledger import PUBLISHED_DIR, Row, ablations, accuracies, averages, costs
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table, checked, read_toml

FILES = {"accuracy": accuracies, "ablations": ablations, "averages": averages, "costs": costs}


class Cell(Table):
    """Printed numbers, by what their rows say; what is left empty is not asked for.

    Attributes:
        file: which table of the ledger. value: as printed.
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
        """The rows of the ledger that are meant; none if it does not hold this number."""
        asked = {key: value for key, value in self.model_dump(exclude={"file"}).items() if value}
        if self.file == "costs":
            asked[asked.pop("metric")] = asked.pop("value")
            asked |= {"branch": asked.pop("method")} if self.method else {}
        return [row for row in FILES[self.file]() if all(getattr(row, key, None) == asked[key] for key in asked)]


class Conflict(Table):
    """One disagreement.

    Attributes:
        id: "2.1"; the number before the point is the section of the page.
        kind: one cell in two sources, or in two places of one source; a claim of a text against tables; an average
            that does not recompute; settings; a damaged place; or something that is odd without contradicting anything.
        subject: what it is about, in a few words. claim: what the text says.
        cells: the printed numbers concerned.
        remark: what was found. reading: how the boards read it.
        used: the values read as right, where the boards choose.
        protocol, setting: the protocol and the setting it is about, where it is about one.
    """

    id: str
    kind: Literal["sources", "places", "claim", "average", "settings", "damaged", "odd"]
    subject: str
    claim: str = ""
    cells: tuple[Cell, ...] = ()
    remark: str
    reading: str = ""
    used: tuple[str, ...] = ()
    protocol: str = ""
    setting: str = ""


@cache
def conflicts(path: Path = PUBLISHED_DIR / "conflicts.toml") -> tuple[Conflict, ...]:
    """The conflicts in the order of the file.

    Raises:
        UsageError: names the file, the entry and what is wrong: a key, an id twice, a cell the ledger does not hold.
    """
    found: dict[str, Conflict] = {}
    for number, table in enumerate(read_toml(path).get("conflicts", []), 1):
        made = _conflict(table, f"{path}: conflict {table.get('id', number)}")
        if made.id in found:
            raise UsageError(f"{path}: conflict {made.id} is there twice; give each an id of its own")
        found[made.id] = made
    return tuple(found.values())


def _conflict(table: dict[str, Any], where: str) -> Conflict:
    made = checked(Conflict, table, where)
    for cell in made.cells:
        if not cell.rows():
            given = ", ".join(f"{key} {value}" for key, value in cell.model_dump().items() if value)
            raise UsageError(f"{where}: the ledger has no such number: {given}")
    return made
