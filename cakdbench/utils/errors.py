"""The errors users see. Each message names what is wrong and what to do about it."""

import difflib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


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


def unknown(what: str, name: str, known: Iterable[str], own: str = "") -> UsageError:
    """Return the error for a name nobody knows, with the nearest names that exist.

    Args:
        own: how users make names of their own known.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    names = known if len(known) <= 60 else [*known[:20], f"... ({len(known)} in all)"]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UsageError("; ".join(filter(None, [f"unknown {what} {name!r}", hint, own])))


RAISED = (Exception, SystemExit)
"""What other people's code may raise; `sys.exit()` in a method ends that method and not the grid."""

LONGEST = 300
"""Characters of a message of other people's code that are shown; all of it stands in the traceback."""


def describe_error(error: BaseException, file: str | Path | None) -> str:
    """Return an error of other people's code in one line: `ValueError: no such layer (my_kd.py, line 12, in build)`.

    Args:
        file: whose code is asked about, see `frame_of`.
    """
    text = " ".join(str(error).split()) or "it says nothing"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    frame = frame_of(error, file)
    place = f" ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})" if frame else ""
    return f"{type(error).__name__}: {text}{place}"


def frame_of(error: BaseException, file: str | Path | None) -> traceback.FrameSummary | None:
    """Return the last frame of an error in `file`'s folder, else the last; None if the error names its place itself."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and Path(frame.filename).parent == Path(file).parent]
    return None if isinstance(error, SyntaxError) or not frames else (own or frames)[-1]


def file_of(thing: type | object) -> str | None:
    """Return the file of the module that defines a class or a function; None for what is typed at a prompt."""
    return getattr(sys.modules.get(thing.__module__), "__file__", None)
