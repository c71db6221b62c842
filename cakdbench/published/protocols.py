"""The settings under which printed numbers were made, and how a recipe differs from them."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cakdbench.published.ledger import PUBLISHED_DIR, Dataset, Family, Line, Printed, sources
from cakdbench.recipes import Kind, recipe_settings
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import Table, checked, inside, read_toml

By = Literal["printed", "released", "by the author"]
BEYOND_RECIPES = ("seeds", "selection", "evaluated_weights")
"""Settings that a protocol may leave unstated beside a recipe's: also the epoch and the weights that are reported."""


class Statement(Table):
    """The settings that one place states, by the dotted names of recipes; None for switched off."""

    by: By
    where: str
    settings: dict[str, Any]

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any]) -> dict[str, Any]:
        values = {key: None if value == "none" else value for key, value in flat(settings).items()}
        _check_names(values, "recipe setting", recipe_settings())
        return values


class Protocol(Table):
    """The settings behind the numbers of some sources on one dataset.

    Attributes:
        kinds: of the students. methods: whose numbers, all if empty.
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
    notes: Line = ""
    statements: tuple[Statement, ...]

    @field_validator("unstated")
    @classmethod
    def _settings(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        _check_names(keys, "setting", [*BEYOND_RECIPES, *recipe_settings()])
        return keys

    def stated(self) -> dict[str, dict[By, Any]]:
        """Return the values of each setting, sorted by setting, by who states them."""
        values: dict[str, dict[By, Any]] = {}
        for statement in self.statements:
            for key, value in statement.settings.items():
                values.setdefault(key, {})[statement.by] = value
        return dict(sorted(values.items()))

    def conflicting(self) -> list[str]:
        """Return the settings that are stated differently."""
        return [key for key, said in self.stated().items() if len(_by_text(said)) > 1]

    def applies_to(self, printed: Printed, student_kind: str) -> bool:
        """Return True for a number that was made under these settings."""
        return (
            (self.family, self.dataset) == (printed.protocol, printed.dataset)
            and printed.source in self.sources
            and student_kind in self.kinds
            and (not self.methods or printed.method in self.methods)
        )


@cache
def protocols(path: Path = PUBLISHED_DIR / "protocols.toml") -> dict[str, Protocol]:
    """Return the protocols by id.

    Raises:
        UsageError: names the file, the entry and the key that is malformed or unknown.
    """
    by_id: dict[str, Protocol] = {}
    for number, table in enumerate(read_toml(path).get("protocols", []), 1):
        where = f"{path}: protocol {number}"
        protocol = checked(Protocol, table, where)
        if protocol.id in by_id:
            raise UsageError(f"{where}: {protocol.id!r} is there already; give each protocol an id of its own")
        for source in protocol.sources:
            if source not in sources():
                raise inside(where, "sources", unknown("source", source, sources()))
        by_id[protocol.id] = _completed(protocol, by_id, where)
    return by_id


def protocol_of(printed: Printed, student_kind: str) -> Protocol:
    """Return the protocol of a printed number; one that names the method goes before one that holds for all.

    Args:
        student_kind: "cnn", "msa" or "mlp".

    Raises:
        UsageError: there is none.
    """
    fitting = [protocol for protocol in protocols().values() if protocol.applies_to(printed, student_kind)]
    if not fitting:
        raise UsageError(
            f"no protocol for {student_kind} students of {printed.source} on {printed.dataset} ({printed.protocol}); "
            "add one to protocols.toml"
        )
    return max(fitting, key=lambda protocol: bool(protocol.methods))


def protocol_differences(numbers: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """Return how a recipe's numbers differ from a protocol, sorted by setting, what is not stated last.

    A setting of which the protocol's sources say different things is listed even if the recipe has one of them:
    `optimizer.lr: 0.1 here, 0.1 printed, 0.05 released`.

    Args:
        numbers: of `Recipe.numbers()`.
    """
    ours = flat(numbers)
    differences = []
    for key, said in protocol.stated().items():
        if key not in protocol.idle and any(value != ours[key] for value in said.values()):
            theirs = (f"{text} {' and '.join(by)}" for text, by in _by_text(said).items())
            differences.append(f"{key}: {setting_text(ours[key])} here, {', '.join(theirs)}")
    for key in protocol.unstated:
        here = f"{setting_text(ours[key])} here, " if key in ours else ""
        differences.append(f"{key}: {here}not stated")
    return differences


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, under dotted names."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return values


def setting_text(value: Any) -> str:
    """Return a setting as text: none, 0.05, [30, 60, 90]."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(setting_text, value))}]"
    return format(value, "g") if isinstance(value, float) else str(value)


def _check_names(names: Iterable[str], what: str, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(str(unknown(what, name, known)))


def _completed(protocol: Protocol, known: Mapping[str, Protocol], where: str) -> Protocol:
    """Return the protocol with the settings that it takes over from the one it is like."""
    if not protocol.like:
        return protocol
    if protocol.like not in known:
        raise inside(where, "like", unknown("protocol", protocol.like, known))
    released = {key: said["released"] for key, said in known[protocol.like].stated().items() if "released" in said}
    own, *others = protocol.statements
    whole = own.model_copy(update={"settings": released | own.settings})
    return protocol.model_copy(update={"statements": (whole, *others)})


def _by_text(said: Mapping[By, Any]) -> dict[str, list[By]]:
    """Return who states a value, by its text."""
    texts: dict[str, list[By]] = {}
    for by, value in said.items():
        texts.setdefault(setting_text(value), []).append(by)
    return texts
