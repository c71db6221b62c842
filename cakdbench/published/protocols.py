"""Under what settings printed numbers were made, and how a recipe of ours differs from that."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cakdbench.published.ledger import PUBLISHED_DIR, Dataset, Family, Printed, sources
from cakdbench.recipes import Kind, recipe_settings
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import Table, checked, inside, read_toml

By = Literal["printed", "released", "by the author"]
BEYOND_RECIPES = ("seeds", "selection", "evaluated_weights")
"""What a protocol may leave unstated beside a recipe's numbers: also which epoch, and which weights, are reported."""


class Statement(Table):
    """What one place says of a protocol's settings, by the dotted names of recipes; None for switched off."""

    by: By
    where: str
    settings: dict[str, Any]

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any]) -> dict[str, Any]:
        values = {key: None if value == "none" else value for key, value in flat(settings).items()}
        for key in values:
            if key not in recipe_settings():
                raise ValueError(str(unknown("recipe setting", key, recipe_settings())))
        return values


class Protocol(Table):
    """The settings behind the numbers of some sources on one dataset.

    Attributes:
        kinds: of the students. methods: which methods' numbers, all if empty.
        printed_under: the header over these settings in a table that swaps its headers.
        repetitions: trainings behind a number, None if not stated. selection: which epoch is reported.
        unstated: settings no place states. idle: settings that are stated and change nothing, with the reason.
        like: the protocol whose released settings hold where this one's own statement is silent.
    """

    id: str
    family: Family
    dataset: Dataset
    kinds: tuple[Kind, ...]
    sources: tuple[str, ...]
    methods: tuple[str, ...] = ()
    printed_under: str = ""
    repetitions: Annotated[int, Field(gt=0)] | None = None
    selection: str
    unstated: tuple[str, ...]
    idle: dict[str, str] = {}
    like: str = ""
    notes: str = ""
    statements: tuple[Statement, ...]

    @field_validator("unstated")
    @classmethod
    def _settings(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        known = [*BEYOND_RECIPES, *recipe_settings()]
        for key in keys:
            if key not in known:
                raise ValueError(str(unknown("setting", key, known)))
        return keys

    def stated(self) -> dict[str, dict[By, Any]]:
        """Setting to who says what of it."""
        found: dict[str, dict[By, Any]] = {}
        for statement in self.statements:
            for key, value in statement.settings.items():
                found.setdefault(key, {})[statement.by] = value
        return found

    def conflicting(self) -> dict[str, dict[By, Any]]:
        """The settings that are stated differently."""
        return {key: said for key, said in self.stated().items() if len(_by_value(said)) > 1}


@cache
def protocols(path: Path = PUBLISHED_DIR / "protocols.toml") -> dict[str, Protocol]:
    """The protocols by id.

    Raises:
        UsageError: names the file, the entry and the key that is malformed or unknown.
    """
    found: dict[str, Protocol] = {}
    for number, table in enumerate(read_toml(path).get("protocols", []), 1):
        where = f"{path}: protocol {number}"
        made = checked(Protocol, table, where)
        if made.id in found:
            raise UsageError(f"{where}: {made.id!r} is there already; give each protocol an id of its own")
        for source in made.sources:
            if source not in sources():
                raise inside(where, "sources", unknown("source", source, sources()))
        found[made.id] = _completed(made, found, where)
    return found


def protocol_of(printed: Printed, student_kind: str) -> Protocol:
    """The protocol of a printed number; one that names the method goes before one that holds for all.

    Args:
        student_kind: "cnn", "msa" or "mlp".

    Raises:
        UsageError: there is none.
    """
    fitting = [
        each
        for each in protocols().values()
        if (each.family, each.dataset) == (printed.protocol, printed.dataset)
        and printed.source in each.sources
        and student_kind in each.kinds
        and (not each.methods or printed.method in each.methods)
    ]
    if not fitting:
        raise UsageError(
            f"no protocol for {student_kind} students of {printed.source} on {printed.dataset} ({printed.protocol}); "
            "add one to protocols.toml"
        )
    return max(fitting, key=lambda each: bool(each.methods))


def protocol_differences(numbers: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """How a recipe's numbers differ from a protocol, sorted by setting, what is not stated last.

    A setting of which the protocol's sources say different things is listed even if the recipe has one of them:
    `optimizer.lr: 0.1 here, 0.1 printed, 0.05 released`.

    Args:
        numbers: of `Recipe.numbers()`.
    """
    ours = flat(numbers)
    differences = []
    for key, said in sorted(protocol.stated().items()):
        if key not in protocol.idle and any(value != ours[key] for value in said.values()):
            differences.append(f"{key}: {setting_text(ours[key])} here, {_said(said)}")
    for key in protocol.unstated:
        here = f"{setting_text(ours[key])} here, " if key in ours else ""
        differences.append(f"{key}: {here}not stated")
    return differences


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _completed(made: Protocol, known: Mapping[str, Protocol], where: str) -> Protocol:
    """The protocol with what it takes over from the one it is like."""
    if not made.like:
        return made
    if made.like not in known:
        raise inside(where, "like", unknown("protocol", made.like, known))
    released = {key: said["released"] for key, said in known[made.like].stated().items() if "released" in said}
    own, *others = made.statements
    whole = own.model_copy(update={"settings": released | own.settings})
    return made.model_copy(update={"statements": (whole, *others)})


def _said(said: Mapping[By, Any]) -> str:
    return ", ".join(f"{text} {' and '.join(by)}" for text, by in _by_value(said).items())


def _by_value(said: Mapping[By, Any]) -> dict[str, list[By]]:
    found: dict[str, list[By]] = {}
    for by, value in said.items():
        found.setdefault(setting_text(value), []).append(by)
    return found


def setting_text(value: Any) -> str:
    """A setting as text: none, 0.05, [30, 60, 90]."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(setting_text, value))}]"
    return format(value, "g") if isinstance(value, float) else str(value)
