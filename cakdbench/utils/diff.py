"""What differs between two settings."""

import json
from collections.abc import Iterator
from typing import Any


def changes(found: Any, standard: Any, name: str) -> list[str]:
    """What differs between two nested settings, as in `recipe.epochs = 1 (standard 8)`; values in JSON."""
    return sorted(_changes(json.loads(json.dumps(found)), json.loads(json.dumps(standard)), name))


def _changes(found: Any, standard: Any, name: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(standard, dict):
        for key in found.keys() | standard.keys():
            yield from _changes(found.get(key), standard.get(key), f"{name}.{key}")
    elif found != standard:
        yield f"{name} = {json.dumps(found)} (standard {json.dumps(standard)})"
