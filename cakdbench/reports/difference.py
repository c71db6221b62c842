"""What differs between two runs, recipes or protocols."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from cakdbench.published.protocols import flat, protocols, setting_text
from cakdbench.recipes import load_recipe, recipe_names
from cakdbench.records import Record
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.load import Evidence, find_run

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
    table = Table(title="what differs", title_justify="left")
    for head in ("", first.name, second.name):
        table.add_column(head, overflow="fold")
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
