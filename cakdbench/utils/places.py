"""Places on this machine for files that can be fetched again."""

from pathlib import Path

from platformdirs import user_cache_path

from cakdbench.utils.errors import UsageError

EARLIER = "~/.cache/cakdbench"
"""The place of what there was in earlier versions, on every system, whatever XDG_CACHE_HOME said."""
MOVED = ("data", "teachers")
"""The folders that may still lie there."""


def cache_path(name: str) -> Path:
    """Return the folder `name` of the user's cache; a moved one at its earlier place, until there is another."""
    folder, earlier = user_cache_path("cakdbench", appauthor=False) / name, Path(EARLIER).expanduser() / name
    return earlier if name in MOVED and earlier.exists() and not folder.exists() else folder


def existing_folder(path: Path | None) -> Path | None:
    """Return the folder that a user names for datasets; a mistyped one is not made.

    Raises:
        UsageError: there is none.
    """
    if path is not None and not path.expanduser().is_dir():
        raise UsageError(f"no folder {path} for datasets: make it with `mkdir -p {path}`, or mend its name")
    return path
