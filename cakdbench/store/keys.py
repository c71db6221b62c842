"""Keys of runs: what they are the hash of, and what people write for them."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from cakdbench.records import Identity
from cakdbench.utils.errors import UsageError, unknown

KEY = re.compile(r".+-[0-9a-f]{16}")


def canonical(identity: Identity) -> str:
    """Return JSON with sorted keys, without spaces and without fields that are None: equal content, equal bytes."""
    return json.dumps(plain_values(identity), sort_keys=True, separators=(",", ":"))


def plain_values(value: Any) -> Any:
    """Return JSON values; fields that are None are left out, and -0.0 is 0.0."""
    if isinstance(value, BaseModel):
        return {name: plain_values(field) for name, field in value if field is not None}
    if isinstance(value, dict):
        return {name: plain_values(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(entry) for entry in value]
    return value + 0.0 if isinstance(value, float) else value


def run_key(identity: Identity) -> str:
    """Return a readable stem and the first 16 hex digits of the identity's sha256.

    The stem has the method's id and not its label, since which variants have a name may change.
    """
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
    return f"{key_stem(identity.method.id, identity.student, identity.dataset.name)}{identity.seed}-{digest}"


def key_stem(method: str, student: str, dataset: str) -> str:
    """Return what the keys of a method's runs of a student on a dataset begin with, up to the seed."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", f"{method}-{student}-{dataset}-s")


def one_key(name: str, keys: Iterable[str], what: str = "run", others: Iterable[str] = ()) -> str:
    """Return the key that a name means.

    Args:
        what, others: what else the name could have been, and the names of those, for the error.

    Raises:
        UsageError: there is none, or there are several.
    """
    keys = list(keys)
    found = find_keys(name, keys)
    if len(found) > 1:
        raise UsageError(f"{name!r} is the start of {len(found)} runs, as of {found[0]} and {found[1]}")
    if not found:
        raise unknown(what, name, [*keys, *others])
    return found[0]


def find_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys that a name means: the key itself, or every key it is the start of."""
    keys = list(keys)
    return [name] if name in keys else [key for key in keys if key.startswith(name)]
