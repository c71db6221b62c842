"""What workers have to say, on its way to the process that shows it: a file a worker, a line a sentence."""

import contextlib
import hashlib
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

from cakdbench.engine.options import RunOptions, to_json
from cakdbench.train.events import Events, NoEvents

FOLDER = ".said"
"""In the store: what workers of other machines have to say, a folder a grid."""


def said_folder(options: RunOptions) -> Path:
    """Return the folder of a grid: the same for all commands that name it, which find its workers again."""
    same = replace(options, computing=replace(options.computing, attempt=""))
    return options.store / FOLDER / hashlib.sha256(to_json(same).encode()).hexdigest()[:16]


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
    """Tells what all workers have said into a folder, if there is one; each sentence once, whoever says it again."""

    def __init__(self, folder: Path | None, events: Events):
        self.folder = folder
        self._events = events
        self._read: dict[Path, int] = {}
        self._told: set[str] = set()

    def hear(self) -> None:
        """Tell what has been said since the last call."""
        for path in sorted(self.folder.glob("*.txt")) if self.folder else ():
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
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._read.clear()
