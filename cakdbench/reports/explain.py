"""Where a run comes from, and why it counts on a board or does not."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cakdbench.grid.suites import Suite, suites
from cakdbench.recipes import load_recipe
from cakdbench.records import Record
from cakdbench.reports.blocks import BoardResults
from cakdbench.reports.difference import run_values
from cakdbench.reports.pages import concerns_any, suite_board
from cakdbench.results.load import Evidence
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import UsageError

OWN = "a suite of your own is named with --pairs FILE"


def explain_run(record: Record, evidence: Evidence, own: Sequence[Suite] = ()) -> Iterator[RenderableType]:
    """Yield what to print about a run.

    Args:
        own: suites that do not come with cakdbench.
    """
    yield Text(record.key, style="bold")
    facts = Table.grid(padding=(0, 2))
    config = record.identity.method.config
    settings = ", ".join(f"{key} = {value}" for key, value in config.items()) or "none"
    changed = "; ".join(_recipe_changes(record, own)) or "none: the recipe as it is installed"
    values = run_values(record, evidence) | {"method settings": settings, "recipe changes": changed}
    for name, text in (values | {"lanes": ", ".join(record.conditions.lanes)}).items():
        facts.add_row(Text(name, style="dim"), Text(text))
    yield facts
    yield Text("On the boards", style="bold")
    for sentence in places(record, evidence, own):
        yield Text(f"- {sentence}")


def _recipe_changes(record: Record, own: Sequence[Suite]) -> list[str]:
    recipes = {load_recipe(spec.recipe).name: spec.recipe for suite in own for spec in suite.specs}
    try:
        numbers = load_recipe(recipes.get(record.recipe_name, record.recipe_name)).numbers()
    except UsageError:
        return [f"not known: cakdbench has no recipe {record.recipe_name}; {OWN}"]
    return changes(record.recipe, numbers, "recipe")


def places(record: Record, evidence: Evidence, own: Sequence[Suite] = ()) -> Iterator[str]:
    """Yield a sentence for each board that a run concerns: that it counts there, or why not."""
    known = [*suites().values(), *own]
    names = [name for name in dict.fromkeys(suite.board for suite in known) if concerns_any(name, [record], known)]
    if not names:
        yield f"no suite of cakdbench has its pair; {OWN}"
    for name in names:
        yield f"{name}: {_place(record, suite_board(name, evidence, known))}"


def _place(record: Record, results: BoardResults) -> str:
    columns = [column for block in results.blocks for column in block.columns]
    pairs = [c.column.pair for c in columns if any(other.key == record.key for other in c.records)]
    if pairs:
        return f"counts for {', '.join(pairs)}"
    for run in results.excluded:
        if run.record.key == record.key:
            return f"set aside: {'; '.join(run.reasons)}"
    teachers = (other.identity.teacher for column in columns for other in column.records)
    if any(teacher and record.weights_sha256 == teacher.sha256 for teacher in teachers):
        return "not shown: it is the training of a teacher"
    return f"not shown: the board has another recipe for its pairs than {record.recipe_name}, or no column for it yet"
