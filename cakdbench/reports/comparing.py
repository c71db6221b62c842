"""What differs between two recipes, two runs, or either and the settings printed numbers were made with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from cakdbench.published.compare import protocols
from cakdbench.published.protocols import Protocol, flat, setting_text
from cakdbench.recipes import load_recipe, recipe_names
from cakdbench.records import Record
from cakdbench.results.load import Evidence, find_run


@dataclass(frozen=True)
class Subject:
    """Something to compare: a recipe, a run or a protocol, as settings under dotted names, in text."""

    name: str
    kind: str
    settings: dict[str, str]
    record: Record | None = None


def subject(name: str, evidence: Evidence) -> Subject:
    """What a name means: a protocol's id, a recipe's name or path, or a run's key or the start of it.

    Raises:
        UsageError: it is none of these, or the start of several keys.
    """
    if name in protocols():
        return Subject(name, "protocol", _protocol_settings(protocols()[name]))
    if name.endswith(".toml") or name in recipe_names():
        return Subject(name, "recipe", _texts(load_recipe(name).numbers()))
    record = find_run(name, evidence, "run, recipe or protocol", protocols())
    return Subject(record.key, "run", _texts(record.recipe), record)


def _protocol_settings(protocol: Protocol) -> dict[str, str]:
    """Each setting with its value, or all values with who says so where they differ."""
    return {
        key: " / ".join(f"{setting_text(value)} ({by})" for by, value in said.items())
        if len({setting_text(value) for value in said.values()}) > 1
        else setting_text(next(iter(said.values())))
        for key, said in protocol.stated().items()
    } | {key: "not stated" for key in protocol.unstated}


def _texts(numbers: dict[str, Any]) -> dict[str, str]:
    return {key: setting_text(value) for key, value in flat(numbers).items()}


def difference_table(first: Subject, second: Subject, evidence: Evidence) -> Table:
    """What differs, a line each; `-` where only one of them has the setting."""
    table = Table("", first.name, second.name, title="what differs", title_justify="left")
    one, other = first.settings, second.settings
    rows = [(f"recipe.{key}", one.get(key, "-"), other.get(key, "-")) for key in sorted(one.keys() | other.keys())]
    if first.record and second.record:
        rows += _run_rows(first.record, second.record, evidence)
    for row in rows:
        if row[1] != row[2]:
            table.add_row(*map(Text, row))
    return table


def _run_rows(first: Record, second: Record, evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for name, value in RUN_VALUES.items():
        yield name, value(first), value(second)
    for key in sorted(first.identity.method.config.keys() | second.identity.method.config.keys()):
        values = (record.identity.method.config.get(key, "-") for record in (first, second))
        yield f"method.{key}", *map(setting_text, values)
    answers = [evidence.answers(record) for record in (first, second)]
    if all(each is not None and each.shape == answers[0].shape for each in answers):
        only = [int(np.sum(a & ~b)) for a, b in (answers, answers[::-1])]
        yield "test images only this run has right", *map(str, only)


RUN_VALUES: dict[str, Callable[[Record], str]] = {
    "method": lambda r: r.label,
    "method source": lambda r: r.method_source[:16],
    "student": lambda r: r.identity.student,
    "teacher": lambda r: (
        f"{r.identity.teacher.model} {r.identity.teacher.sha256[:16]}" if r.identity.teacher else "none"
    ),
    "dataset": lambda r: f"{r.identity.dataset.name} {r.identity.dataset.fingerprint[:16]}",
    "recipe name": lambda r: r.recipe_name,
    "precision": lambda r: r.identity.precision,
    "seed": lambda r: str(r.identity.seed),
    "top-1": lambda r: f"{r.result.top1:.2f}",
    "top-1, best epoch": lambda r: f"{r.result.optimistic_top1:.2f} (epoch {r.result.optimistic_epoch})",
    "top-1, EMA": lambda r: "-" if r.result.ema_top1 is None else f"{r.result.ema_top1:.2f}",
    "extra parameters": lambda r: f"{r.extra_parameters:,}",
    "device": lambda r: r.conditions.device,
    "processes": lambda r: str(r.conditions.processes),
    "threads": lambda r: str(r.conditions.threads),
    "compiled": lambda r: str(r.conditions.compiled),
    "channels last": lambda r: str(r.conditions.channels_last),
    "versions": lambda r: ", ".join(f"{k} {v}" for k, v in sorted(r.conditions.versions.items())),
    "seconds": lambda r: f"{r.conditions.seconds:,.0f}",
    "finished": lambda r: r.conditions.finished,
}
"""What two runs are compared by, beside recipe and method settings."""
