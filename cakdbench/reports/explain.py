"""Everything about one run: where it comes from, how it was made, and why it is or is not on a board."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cakdbench.grid.suites import suites
from cakdbench.recipes import load_recipe
from cakdbench.records import Record
from cakdbench.reports.board import Board
from cakdbench.reports.comparing import RUN_VALUES
from cakdbench.reports.eligibility import board_columns
from cakdbench.reports.pages import boards_of
from cakdbench.reports.tables import NOT_SUBMITTED
from cakdbench.results.load import Evidence
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import UsageError


def explain_run(record: Record, evidence: Evidence, data_dir: Path | None = None) -> Iterator[RenderableType]:
    """What to print about a run."""
    yield Text(record.key, style="bold")
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(record, evidence):
        facts.add_row(Text(name, style="dim"), Text(text))
    yield facts
    yield Text("On the boards", style="bold")
    for sentence in places(record, evidence, data_dir):
        yield Text(f"- {sentence}")


def _facts(record: Record, evidence: Evidence) -> Iterator[tuple[str, str]]:
    yield "status", evidence.statuses.get(record.key, NOT_SUBMITTED)
    for name, value in RUN_VALUES.items():
        yield name, value(record)
    config = record.identity.method.config
    yield "method settings", ", ".join(f"{key} = {value}" for key, value in config.items()) or "none"
    yield "recipe changes", "; ".join(_recipe_changes(record)) or "none: the recipe as it is installed"
    yield "lanes beside it", ", ".join(record.conditions.lanes)
    if record.teacher:
        expected = "no entry" if record.teacher.expected is None else f"entry says {record.teacher.expected:.2f}"
        off = ", off its entry and allowed" if record.teacher.mismatch_allowed else ""
        yield "teacher at its gate", f"{record.teacher.measured:.2f} ({expected}{off}); {record.teacher.source}"
    yield "predictions sha256", record.predictions_sha256
    yield "weights sha256", record.weights_sha256


def _recipe_changes(record: Record) -> list[str]:
    try:
        numbers = load_recipe(record.recipe_name).numbers()
    except UsageError:
        return [f"no recipe {record.recipe_name} is installed"]
    return changes(record.recipe, numbers, "recipe")


def places(record: Record, evidence: Evidence, data_dir: Path | None = None) -> Iterator[str]:
    """For each board that a record concerns, whether it counts there, or why not."""
    known = list(suites().values())
    names = dict.fromkeys(suite.board for suite in known)
    concerned = [name for name in names if any(c.concerns(record) for c in board_columns(known, name))]
    if not concerned:
        yield "no suite has its pair: it stands on no board"
    for board in boards_of(evidence, concerned, data_dir):
        yield f"{board.name}: {_place(record, board)}"


def _place(record: Record, board: Board) -> str:
    pairs = [
        column.column.pair
        for block in board.blocks
        for column in block.columns
        if any(each.key == record.key for each in column.records)
    ]
    if pairs:
        return f"counts for {', '.join(pairs)}"
    for aside in board.aside:
        if aside.record.key == record.key:
            return f"set aside: {'; '.join(aside.reasons)}"
    if any(record.weights_sha256 == e.identity.teacher.sha256 for e in _counted(board) if e.identity.teacher):
        return "not shown: it is the training of a teacher"
    return f"not shown: the board has another recipe for its pairs than {record.recipe_name}, or no column for it yet"


def _counted(board: Board) -> Iterator[Record]:
    return (record for block in board.blocks for column in block.columns for record in column.records)
