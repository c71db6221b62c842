"""The errors users see. Each message names what is wrong and what to do about it."""

import difflib
from collections.abc import Iterable


class CakdError(Exception):
    """Anything cakdbench reports without a traceback."""

    exit_code = 1


class UsageError(CakdError):
    """The command, a file or a setting is wrong; nothing has been started."""

    exit_code = 2


class WeightsError(CakdError):
    """Weights are missing, damaged, or of another network."""


class TeacherError(WeightsError):
    """A teacher is missing, damaged or not the one its registry entry describes."""


class StoreError(CakdError):
    """The store cannot be read or written."""


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name nobody knows, with the nearest names that exist."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    names = known if len(known) <= 60 else [*known[:20], f"... ({len(known)} in all)"]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {what} {name!r}; {hint}")
