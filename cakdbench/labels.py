"""Method names as users write them: `ofa`, `fbt:no_infonce`, `ofa[gamma=1.5]`, `fbt:mse[l2g_heads=6]`.

A label is a method's id and a variant. The variant is a named one, changed numbers in brackets, or both. In a grid,
`ofa[gamma=1.0|1.5]`, every choice of the values is a label of its own.
"""

import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from cakdbench.utils.errors import UsageError
from cakdbench.utils.text import is_device

ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_\-]{0,62}[A-Za-z0-9_])?")
RESERVED = ("all", "external")
"""What stands for every method on the command line, and the folder of numbers that were measured with other code."""


def id_problem(id: str) -> str | None:
    """Return why a text cannot be a method's id, which names folders on every system; None if it can."""
    if not ID.fullmatch(id):
        return "a method's id has 1 to 64 letters, digits, '_' and '-', no '-' at either end"
    if is_device(id) or id.lower() in RESERVED:
        return f"{id} is a name with a meaning of its own: choose another id for the method"
    return None


def label(id: str, variant: str | None) -> str:
    """Return the name of a method's variant."""
    return f"{id}:{variant}" if variant and not variant.startswith("[") else id + (variant or "")


def split(name: str) -> tuple[str, str | None]:
    """Return the part before the first colon or bracket, and the rest without the colon; None for no rest."""
    name = name.strip()
    base = re.split(r"[:\[]", name, maxsplit=1)[0]
    return base, name[len(base) :].removeprefix(":") or None


def changes(variant: str) -> dict[str, Any]:
    """Return the values in a variant's brackets."""
    return {key: toml_value(text) for key, text in _bracket(variant)[1].items()}


def expand(names: str) -> list[str]:
    """Return the labels in a list separated by commas; each grid becomes its labels, the last key changing fastest."""
    labels: list[str] = []
    for name in filter(None, split_list(names)):
        stem, grid = _bracket(name)
        choices = [[f"{key}={value}" for value in _parts(text, "|")] for key, text in grid.items()]
        labels += [f"{stem}[{','.join(choice)}]" if choice else stem for choice in itertools.product(*choices)]
    return labels


def split_list(text: str) -> list[str]:
    """Return the parts between commas that are outside of brackets."""
    return _parts(text, ",")


def with_changes(variant: str | None, values: Mapping[str, Any]) -> str | None:
    """Return the variant with values in brackets: `("mse", {"heads": 6})` -> `mse[heads=6]`; None for neither."""
    changed = ",".join(f"{key}={value_text(value)}" for key, value in values.items())
    return (variant or "") + (f"[{changed}]" if changed else "") or None


def value_text(value: Any) -> str:
    """Return the shortest text that `toml_value` reads as the value; `none`, as settings take it, for None."""
    text = "none" if value is None else json.dumps(value)
    return value if isinstance(value, str) and toml_value(value) == value and not set(value) & set(",|[]") else text


def choices(text: str) -> list[Any]:
    """Return the values of a grid, `1|2`; one for a text without bars, or with bars inside of quotes or brackets."""
    value = toml_value(text)
    return [value] if value != text else [toml_value(part) for part in _parts(text, "|")]


def toml_value(text: str) -> Any:
    """Return a TOML value, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _bracket(name: str) -> tuple[str, dict[str, str]]:
    """`ofa[gamma=1.0|1.5]` -> ("ofa", {"gamma": "1.0|1.5"})."""
    stem, bracket, inside = name.partition("[")
    if not bracket:
        return stem, {}
    items = [item.partition("=") for item in _parts(inside.removesuffix("]"), ",")]
    values = {key.strip(): value.strip() for key, _, value in items}
    if not inside.endswith("]") or len(values) < len(items) or not all([*values, *values.values()]):
        raise UsageError(f"{name!r}: write METHOD[KEY=VALUE] or a grid METHOD[KEY=VALUE|VALUE], as ofa[gamma=1.0|1.5]")
    return stem.strip(), values


def _parts(text: str, separator: str) -> list[str]:
    """Return the parts between separators that are outside of brackets."""
    depth, parts = 0, [""]
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
