"""Neutral values: what a setting means to code that has never heard of it.

A run's key leaves out every setting that has its neutral value, so that adding a setting that is off changes no key,
and a record from before it is read as if it had the setting off. A neutral value belongs to the setting for ever: it
stays as it is when the default changes. A setting without one stands in every key.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, cast, get_args

from pydantic import BaseModel

METADATA = "neutral"
"""The key of the neutral value in a dataclass field's metadata."""


@dataclass(frozen=True)
class Neutral:
    """Declares the neutral value of a pydantic field: `mixup: Annotated[float, Neutral(0.0)] = 0.2`."""

    value: Any


def strip_neutral(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, as JSON values, without those that are neutral.

    Args:
        kind: the pydantic model or the dataclass that declares the settings; tables in tables are stripped too.
    """
    neutral, tables = _neutral_values(kind), _tables(kind)
    kept = {name: value for name, value in values.items() if name not in neutral or neutral[name] != value}
    for name in tables.keys() & kept.keys():
        if isinstance(kept[name], Mapping):
            kept[name] = strip_neutral(tables[name], kept[name])
    return {name: value for name, value in kept.items() if value != {} or name not in _tables_that_can_be_off(kind)}


def fill_neutral(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the neutral values that `strip_neutral` left out; what `kind` does not know stays."""
    filled = {name: {} for name in _tables_that_can_be_off(kind)} | _neutral_values(kind) | dict(values)
    tables = {name: table for name, table in _tables(kind).items() if isinstance(filled.get(name), Mapping)}
    return filled | {name: fill_neutral(table, filled[name]) for name, table in tables.items()}


def _neutral_values(kind: type) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        declared: dict[str, Any] = {}
        for name, field in kind.model_fields.items():
            declared.update((name, mark.value) for mark in field.metadata if isinstance(mark, Neutral))
    else:
        fields = dataclasses.fields(cast(Any, kind))
        declared = {field.name: field.metadata[METADATA] for field in fields if METADATA in field.metadata}
    return json.loads(json.dumps(declared))  # as settings are in JSON, where a tuple is a list


def _tables_that_can_be_off(kind: type) -> set[str]:
    """Return the names of the tables that are always there and have a neutral value for each of their settings."""
    fields = kind.model_fields if issubclass(kind, BaseModel) else {}
    plain = {name: table for name, table in _tables(kind).items() if fields[name].annotation is table}
    return {name for name, table in plain.items() if _neutral_values(table).keys() == table.model_fields.keys()}


def _tables(kind: type) -> dict[str, type[BaseModel]]:
    if not issubclass(kind, BaseModel):
        return {}
    tables: dict[str, type[BaseModel]] = {}
    for name, field in kind.model_fields.items():
        optional = get_args(field.annotation) if isinstance(field.annotation, UnionType) else ()
        for choice in (field.annotation, *optional):  # of `Table | None` the table
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                tables[name] = choice
    return tables
