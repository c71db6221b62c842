"""Tables of text for pages that are not sections yet."""

from dataclasses import dataclass

from cakdbench.reports.board import table
from cakdbench.reports.markdown import frame_markdown
from cakdbench.reports.text import plain

__all__ = ["Table", "plain", "table_text"]


@dataclass(frozen=True)
class Table:
    """Heads and rows of text."""

    heads: list[str]
    rows: list[list[str]]


def table_text(rows: Table) -> str:
    """Return a table in markdown."""
    return frame_markdown(table(rows.heads, rows.rows))
