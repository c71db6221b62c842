"""What workers have to say, on its way to the process that shows it: a file a worker, a line a sentence."""

import contextlib
import os
import platform
import shutil
from pathlib import Path

from cakdbench.train.events import Events, NoEvents


class Sayings(NoEvents):
    """Writes a worker's sentences down, and nothing else of its events. A disk that fails costs no more than them."""

    def __init__(self, folder: Path):
        self._file = folder / f"{platform.node()}-{os.getpid()}.txt"

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8", newline="") as file:
                file.write(f"{' '.join(text.splitlines())}\n")


class Hearing:
    """Tells what all workers have said, each sentence once, whoever says it again."""

    def __init__(self, folder: Path, events: Events):
        self.folder = folder
        self._events = events
        self._read: dict[Path, int] = {}
        self._told: set[str] = set()

    def hear(self) -> None:
        """Tell what has been said since the last call."""
        for path in sorted(self.folder.glob("*.txt")):
            for sentence in self._new(path):
                if sentence not in self._told:
                    self._told.add(sentence)
                    self._events.say(sentence)

    def _new(self, path: Path) -> list[str]:
        """Return the whole lines of a file that were not read yet."""
        try:
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
        except OSError:  # it is read the next time
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def forget(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._read.clear()
