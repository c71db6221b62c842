"""Tables of text, and markdown that foreign text cannot break out of."""

from dataclasses import dataclass

from tabulate import tabulate

BREAK = "\n"
"""Starts a new line inside a cell."""


@dataclass(frozen=True)
class Table:
    """Heads and rows of text, for any format."""

    heads: list[str]
    rows: list[list[str]]


def table_text(table: Table) -> str:
    """A table in markdown."""
    cells = [[plain(str(cell)) for cell in row] for row in table.rows]
    return tabulate(cells, [plain(head) for head in table.heads], tablefmt="pipe", disable_numparse=True)


def plain(text: str) -> str:
    """Text that cannot leave its table cell or line; its own line breaks are kept as such."""
    lines = (" ".join(line.split()) for line in text.split(BREAK))
    return "<br>".join(line.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;") for line in lines if line)
