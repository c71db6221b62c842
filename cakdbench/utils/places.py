"""Places on this machine for files that can be fetched again."""

from pathlib import Path

from platformdirs import user_cache_path

EARLIER = "~/.cache/cakdbench"
"""The place of everything in earlier versions, on every system, whatever XDG_CACHE_HOME said."""


def cache_path(name: str) -> Path:
    """Return the folder `name` of the user's cache; one at its earlier place counts as long as there is no other."""
    folder, earlier = user_cache_path("cakdbench", appauthor=False) / name, Path(EARLIER).expanduser() / name
    return earlier if earlier.exists() and not folder.exists() else folder
