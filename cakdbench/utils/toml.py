"""Reading the TOML files people write: every error names the file and the key."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cakdbench.utils.errors import UsageError, unknown

PAIRS_DIR = Path(str(files("cakdbench.pairs")))
"""The folder of the suites, the recipes and the teachers that come with cakdbench."""


class Table(BaseModel):
    """A TOML table: unknown keys, infinities and NaN are errors, values do not change type."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=Table)
_BRANCH = re.compile(r"constrained-|tuple\[|^(float|int|str|none|finite-float)$")
"""The mark pydantic puts on the branch of a union in the place of an error."""
_WORDS = {
    "Field required": "missing",
    "Input should be": "must be",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid array": "a list, as [1,2]",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    "Tuple should have": "must have",
    " after validation": "",
}
"""pydantic's words, and those of who writes settings."""


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        UsageError: the file is missing, unreadable or no TOML; the message has the line where it breaks.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        UsageError: it is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"no file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def toml_lines(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """Yield the lines of a TOML table below its head; strings and numbers in JSON's notation are TOML's."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    yield from (f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        path = f"{name}.{key}".lstrip(".")
        yield f"[{path}]"
        yield from toml_lines(value, path)


def checked(model: type[T], table: Mapping[str, Any], where: str | Path) -> T:
    """Return `table` as a `model`, without any change of type.

    Raises:
        UsageError: `where`, then `key: problem` for each thing wrong, with the nearest keys for unknown ones.
    """
    try:
        # JSON is the strict mode that takes arrays for tuples and 1 for 1.0, as TOML writers expect.
        return model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise UsageError(f"{where}: {problems(error, model)}") from error


def inside(where: str | Path, key: str, error: UsageError) -> UsageError:
    """Return the same error with the file and the key it was found at."""
    return UsageError(f"{where}: {key}: {error}")


def setting_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the values in a model: `epochs`, `optimizer.lr`."""
    for name, field in model.model_fields.items():
        table = _table_in(field.annotation)
        if table and isinstance(field.annotation, type):
            yield from setting_keys(table, f"{prefix}{name}.")
        else:
            yield prefix + name


def problems(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return what a validator found, in one line: `key: what it must be (given: value)` for each thing wrong.

    Args:
        model: whose keys are the nearest to one that is unknown.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for detail in error.errors():
        location = tuple(part for part in detail["loc"] if not _BRANCH.search(str(part)))
        key = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        if detail["type"] == "extra_forbidden" and model:
            key, message, given = "", str(unknown("key", key, _siblings(model, location))), ""
        elif detail["type"] == "tuple_type" and isinstance(detail["input"], dict):
            message, given = f"begin each table with [[{key}]]", ""
        else:
            message, given = _message(detail["msg"]), _given(detail)
        found.setdefault((key, given), []).append(message)
    return "; ".join(_joined(key, messages) + given for (key, given), messages in found.items())


def _joined(key: str, messages: list[str]) -> str:
    """Return what a key must be; the branches of a union as one alternative, apart from those of no key."""
    first, *others = dict.fromkeys(messages)
    if not key:
        return "; ".join([first, *others])
    return f"{key}: " + " or ".join([first, *(other.removeprefix("must be ") for other in others)])


def _message(text: str) -> str:
    """Return a validator's message in the words of who writes settings."""
    text = text.removeprefix("Value error, ").partition(", unable to parse")[0].partition(", got a number")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _given(detail: Mapping[str, Any]) -> str:
    value = detail["input"]
    return "" if detail["type"] == "missing" or isinstance(value, dict | BaseModel) else f" (given: {value!r})"


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys known where an unknown one stands, written from the top of the file."""
    for part in location[:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        model = (_table_in(field.annotation) if field else None) or model
    above = [str(part) for part in location[:-1] if isinstance(part, str)]
    return [".".join([*above, name]) for name in model.model_fields]


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model a field holds, by itself or in a tuple, a dict or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_table_in, get_args(annotation))), None)
