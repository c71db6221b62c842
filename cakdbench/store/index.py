"""The index: which runs were found whole, so that thousands are not read and hashed again to list them.

It is a cache of lines of JSON that any process appends to; later lines win, lines that are no JSON are passed over, and
an entry counts only while size and date of all files of its run are those it was made with. It may be deleted.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

from cakdbench.store.summary import Stamp, Summary

NAME = "index.jsonl"
Entry = tuple[str, Stamp, Summary]


def append_to_index(root: Path, entries: Iterable[Entry]) -> None:
    """Add runs that were found whole.

    Raises:
        OSError: the store cannot be written.
    """
    text = "".join(json.dumps([key, stamp, astuple(summary)]) + "\n" for key, stamp, summary in entries)
    with open(root / NAME, "ab", buffering=0) as file:  # one write: lines of several processes do not mix
        file.write(text.encode())


def void_in_index(root: Path, key: str) -> None:
    """Let a run be read again: it was found damaged, though size and date of its files are the old ones."""
    with contextlib.suppress(OSError):
        append_to_index(root, [(key, (), Summary("", "", "", 0, 0, 0.0))])


class Index:
    """The index of a store as one process reads it, and what it finds out beyond."""

    def __init__(self, root: Path):
        self.root = root
        self._new: list[Entry] = []

    @cached_property
    def _known(self) -> dict[str, tuple[Stamp, Summary]]:
        try:
            lines = (self.root / NAME).read_bytes().splitlines()
        except OSError:
            return {}
        return {key: (stamp, summary) for key, stamp, summary in filter(None, map(_parse, lines))}

    def get(self, key: str, stamp: Stamp) -> Summary | None:
        """Return what is known of a run whose files have this stamp."""
        known = self._known.get(key)
        return known[1] if known and known[0] == stamp else None

    def add(self, key: str, stamp: Stamp, summary: Summary) -> None:
        """Know from now on that a run is whole."""
        self._known[key] = stamp, summary
        self._new.append((key, stamp, summary))

    def save(self) -> None:
        """Let others know; a store that cannot be written stays as it is."""
        new, self._new = self._new, []
        if new and os.access(self.root, os.W_OK):
            try:
                append_to_index(self.root, new)
            except OSError:
                return


def _parse(line: bytes) -> Entry | None:
    try:
        key, stamp, summary = json.loads(line)
        return key, tuple((size, date) for size, date in stamp), Summary(*summary)
    except (ValueError, TypeError):
        return None
