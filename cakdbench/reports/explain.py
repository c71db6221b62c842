"""Where a run comes from and why it counts on a board or does not; what differs between runs, recipes and protocols."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cakdbench.published.protocols import flat, protocols, setting_text
from cakdbench.recipes import load_recipe, recipe_names
from cakdbench.records import Record
from cakdbench.reports.blocks import BoardResults
from cakdbench.reports.pages import all_boards, concerns_any, suite_board
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.load import Evidence, find_run
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import UsageError

MADE_OF_OTHERS = {"key", "path", "pair", "variant", "excluded"}
"""Columns of the frame of runs that say nothing of their own."""


def run_values(record: Record, evidence: Evidence) -> dict[str, str]:
    """Return what the frame of runs says of a run, as text."""
    stored = StoredRecord(record, status=evidence.statuses.get(record.key))
    values = runs_frame([stored]).iloc[0].drop(MADE_OF_OTHERS)
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if pd.isna(value):
        return "none"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Subject:
    """Something to compare: a recipe, a run or a protocol, as settings under dotted names, in text."""

    name: str
    settings: dict[str, str]
    record: Record | None = None


def subject(name: str, evidence: Evidence) -> Subject:
    """Return what a name means: a protocol's id, a recipe's name or path, or a run's key or the start of it.

    Raises:
        UsageError: it is none of these, or the start of several keys.
    """
    if name in protocols():
        stated = {key: _statements(said) for key, said in protocols()[name].stated().items()}
        settings = stated | dict.fromkeys(protocols()[name].unstated, "not stated")
        return Subject(name, {f"recipe.{key}": settings[key] for key in sorted(settings)})
    if name.endswith(".toml") or name in recipe_names():
        return Subject(name, _texts("recipe", load_recipe(name).numbers()))
    record = find_run(name, evidence, "run, recipe or protocol", [*recipe_names(), *protocols()])
    return Subject(record.key, _texts("recipe", record.recipe), record)


def _statements(said: Mapping[Any, Any]) -> str:
    """Return the value, or all values with who says so where they differ."""
    texts = {by: setting_text(value) for by, value in said.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " / ".join(f"{text} ({by})" for by, text in texts.items())


def _texts(prefix: str, settings: dict[str, Any]) -> dict[str, str]:
    return {f"{prefix}.{key}": setting_text(value) for key, value in sorted(flat(settings).items())}


def difference_table(first: Subject, second: Subject, evidence: Evidence) -> Table:
    """Return what differs, a line each; `-` where only one of them has the setting."""
    table = Table("", first.name, second.name, title="what differs", title_justify="left")
    one, other = first.settings, second.settings
    if first.record and second.record:
        one = one | _run_facts(first.record, second.record, evidence)
        other = other | _run_facts(second.record, first.record, evidence)
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            table.add_row(*map(Text, (name, one.get(name, "-"), other.get(name, "-"))))
    return table


def _run_facts(record: Record, other: Record, evidence: Evidence) -> dict[str, str]:
    """Return what sets a run off from another beside its recipe."""
    facts = run_values(record, evidence) | _texts("method", record.identity.method.config)
    own, others = evidence.answers_by_key(record.key), evidence.answers_by_key(other.key)
    if own is not None and others is not None and own.shape == others.shape:
        facts["test images only this run has right"] = str(int(np.sum(own & ~others)))
    return facts


def explain_run(record: Record, evidence: Evidence) -> Iterator[RenderableType]:
    """Yield what to print about a run."""
    yield Text(record.key, style="bold")
    facts = Table.grid(padding=(0, 2))
    config = record.identity.method.config
    settings = ", ".join(f"{key} = {value}" for key, value in config.items()) or "none"
    changed = "; ".join(_recipe_changes(record)) or "none: the recipe as it is installed"
    values = run_values(record, evidence) | {"method settings": settings, "recipe changes": changed}
    for name, text in (values | {"lanes": ", ".join(record.conditions.lanes)}).items():
        facts.add_row(Text(name, style="dim"), Text(text))
    yield facts
    yield Text("On the boards", style="bold")
    for sentence in places(record, evidence):
        yield Text(f"- {sentence}")


def _recipe_changes(record: Record) -> list[str]:
    try:
        numbers = load_recipe(record.recipe_name).numbers()
    except UsageError:
        return [f"no recipe {record.recipe_name} is installed"]
    return changes(record.recipe, numbers, "recipe")


def places(record: Record, evidence: Evidence) -> Iterator[str]:
    """Yield a sentence for each board that a run concerns: that it counts there, or why not."""
    names = [name for name in all_boards() if concerns_any(name, [record])]
    if not names:
        yield "no suite has its pair: it stands on no board"
    for name in names:
        yield f"{name}: {_place(record, suite_board(name, evidence))}"


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
