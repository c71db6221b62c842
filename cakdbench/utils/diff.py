"""Differences between settings."""

import json
from collections.abc import Iterator
from typing import Any


def exact_text(value: Any) -> str:
    """Return JSON that tells 1, 1.0 and true apart, and not the order of keys."""
    return json.dumps(value, sort_keys=True)


def changes(settings: Any, standard: Any, name: str) -> list[str]:
    """Return the differences between two nested settings, as in `recipe.epochs = 1 (standard 8)`; values in JSON."""
    return sorted(_changes(json.loads(json.dumps(settings)), json.loads(json.dumps(standard)), name))


def _changes(settings: Any, standard: Any, name: str) -> Iterator[str]:
    if isinstance(settings, dict) and isinstance(standard, dict):
        for key in settings.keys() | standard.keys():
            yield from _changes(settings.get(key), standard.get(key), f"{name}.{key}")
    elif settings != standard:
        yield f"{name} = {json.dumps(settings)} (standard {json.dumps(standard)})"
