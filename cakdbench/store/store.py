"""All runs under one folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from cakdbench.records import Identity, Record
from cakdbench.store.files import is_there, reason
from cakdbench.store.folder import RunFolder
from cakdbench.store.index import Index
from cakdbench.store.keys import KEY, one_key, run_key
from cakdbench.store.lock import require_locks
from cakdbench.store.summary import Summary, take_stamp
from cakdbench.utils.errors import StoreError

TRACES = {"identity.json", "record.json", "about.json", "checkpoints", "failure.json", "student.safetensors"}
"""What a folder has one of at least, if it is a run's."""


class Store:
    """All runs under one folder."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.index = Index(self.root)

    def run(self, identity: Identity) -> RunFolder:
        return RunFolder(self.root / run_key(identity))

    def create(self) -> None:
        """Make the store's folder, if need be, ready for work.

        Raises:
            StoreError: it cannot be written, or its disk has no working locks.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the store {self.root}: {reason(error)}") from error
        require_locks(self.root)

    def require(self) -> None:
        """Raise StoreError if the store is not there any more: a new one in its place would know nothing of it."""
        if not is_there(self.root):
            raise StoreError(f"the store {self.root} has gone away: bring it back, then run the same command again")

    def runs(self) -> Iterator[RunFolder]:
        """Yield every run of the store, in the order of their keys, those that have lost files too.

        Raises:
            StoreError: the store cannot be read.
        """
        for name in sorted(self._folders()):
            path = os.path.join(self.root, name)
            if os.path.exists(os.path.join(path, "identity.json")) or (KEY.fullmatch(name) and _has_traces(path)):
                yield RunFolder(Path(path))

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in entries if _is_folder(entry)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"cannot read {self.root}: {reason(error)}") from error

    def find(self, name: str) -> RunFolder:
        """Return the run, finished or not, that a folder, a key or the start of one key names.

        Raises:
            UsageError: there is none, or there are several.
        """
        if (Path(name) / "identity.json").is_file():
            return RunFolder(Path(name))
        known = [run.key for run in self.runs()]
        return RunFolder(self.root / one_key(name, known))

    def summary(self, run: RunFolder) -> Summary:
        """Return a finished run in a line, once its files were found whole; they are read again when they change.

        Raises:
            StoreError: a file is missing or damaged.
        """
        try:
            stamp = take_stamp(run.path)
        except OSError as error:
            raise StoreError(f"cannot read {run.path}: {reason(error)}") from error
        known = self.index.get(run.key, stamp)
        if known is None:
            known = Summary.of(run.check())
            self.index.add(run.key, stamp, known)
        return known

    def fault(self, run: RunFolder) -> str | None:
        """Return what is wrong with a finished run; None if its files are all as they were written."""
        try:
            if run.was_done:
                self.summary(run)
        except StoreError as error:
            return str(error)
        return None

    def records(self) -> tuple[list[Record], list[str]]:
        """Return the records of the finished runs, and what is wrong with those that are not whole.

        A run that has lost its weights alone is in both: its numbers are right.
        """
        records, damage = [], []
        for run in self.runs():
            fault = self.fault(run)
            try:
                if run.is_done:
                    records.append(run.check_result() if fault else run.record())
                if fault and not run.is_handed_over:
                    damage.append(fault)
            except StoreError as error:
                damage.append(str(error))
        self.index.save()
        return records, damage


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one; False for a link that leads in circles."""
    return entry.is_dir(follow_symlinks=False) or os.path.isdir(entry)


def _has_traces(path: str) -> bool:
    try:
        return not TRACES.isdisjoint(os.listdir(path))
    except FileNotFoundError:
        return False
    except OSError:  # a run that cannot be read is told of by whoever reads it
        return True
