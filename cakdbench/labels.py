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


def label(id: str, variant: str | None) -> str:
    """The name of a method's variant."""
    return f"{id}:{variant}" if variant and not variant.startswith("[") else id + (variant or "")


def split(name: str) -> tuple[str, str | None]:
    """The part before the first colon or bracket, and the rest without the colon; None for no rest."""
    base, rest = re.fullmatch(r"([^:\[]*)(.*)", name.strip(), re.DOTALL).groups()
    return base, rest.removeprefix(":") or None


def changes(variant: str) -> dict[str, Any]:
    """The values in a variant's brackets."""
    return {key: toml_value(text) for key, text in _bracket(variant)[1].items()}


def expand(names: str) -> list[str]:
    """The labels in a list separated by commas; each grid becomes its labels, the last key changing fastest."""
    found = []
    for name in filter(None, _parts(names, ",")):
        stem, grid = _bracket(name)
        choices = [[f"{key}={value}" for value in _parts(text, "|")] for key, text in grid.items()]
        found += [f"{stem}[{','.join(choice)}]" if choice else stem for choice in itertools.product(*choices)]
    return found


def with_changes(variant: str | None, values: Mapping[str, Any]) -> str | None:
    """Return the variant with values in brackets: `("mse", {"heads": 6})` -> `mse[heads=6]`; None for neither."""
    changed = ",".join(f"{key}={_text(value)}" for key, value in values.items())
    return (variant or "") + (f"[{changed}]" if changed else "") or None


def _text(value: Any) -> str:
    """Return the shortest text that `toml_value` reads as the value."""
    text = json.dumps(value)
    return value if isinstance(value, str) and toml_value(value) == value and not set(value) & set(",|[]") else text


def toml_value(text: str) -> Any:
    """A TOML value, or the text itself."""
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
    found = {key.strip(): value.strip() for key, _, value in items}
    if not inside.endswith("]") or len(found) < len(items) or not all([*found, *found.values()]):
        raise UsageError(f"{name!r}: write METHOD[KEY=VALUE] or a grid METHOD[KEY=VALUE|VALUE], as ofa[gamma=1.0|1.5]")
    return stem.strip(), found


def _parts(text: str, separator: str) -> list[str]:
    """What stands between separators that are outside of brackets."""
    depth, parts = 0, [""]
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
