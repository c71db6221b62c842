"""Keep a store in order: find what is left of failed and replaced runs, and what is damaged."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cakdbench.records import ENGINE_VERSION, Identity, Record
from cakdbench.registry import get_method
from cakdbench.store import RunFolder, Store, checkpoint_files
from cakdbench.store.files import file_names, is_there
from cakdbench.store.folder import NO_SUMS, half_written
from cakdbench.store.index import void_in_index
from cakdbench.train.checkpoint import read_checkpoint, set_aside
from cakdbench.utils.errors import StoreError, UsageError

WINDOWS = sys.platform == "win32"


@dataclass(frozen=True)
class Leftover:
    """Something of a run that nothing needs any more.

    Attributes:
        path: a file, or a folder with all that is in it.
        size: in bytes.
    """

    run: RunFolder
    path: Path
    why: str
    size: int

    @property
    def name(self) -> str:
        return str(self.path.relative_to(self.run.path.parent))

    def remove(self) -> bool:
        """Remove it, unless a process works on the run or needs it by now; return whether it is gone."""
        try:
            if not is_there(self.path):
                return True
            if not self.run.acquire():
                return False
        except StoreError:
            return False
        try:
            if self.path in [leftover.path for leftover in _leftovers(self.run)]:
                self._remove_locked()
        except (StoreError, OSError):
            return False
        finally:
            self.run.release()
        if WINDOWS:  # removes no open file: neither a lock that is held, nor one that another process has taken by now
            _remove_empty(self.run)
        return not self.path.exists()

    def _remove_locked(self) -> None:
        if self.path != self.run.path:
            return _remove(self.path)
        for path in self.path.iterdir():
            if path != self.run.lock.path:
                _remove(path)
        if not WINDOWS:
            _remove_empty(self.run)


def _remove_empty(run: RunFolder) -> None:
    """Remove a run's folder with its lock; not if a process has begun to write there."""
    with contextlib.suppress(OSError):
        if os.listdir(run.path) == [run.lock.path.name]:
            run.lock.path.unlink()
            run.path.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_leftovers(store: Store) -> list[Leftover]:
    """Return what may go: of finished runs what they do not need, failed runs, unfinished runs of code that is no more.

    A run that is being computed, and an interrupted one that the same command goes on with, stays as it is.
    """
    found: list[Leftover] = []
    for run in store.runs():
        with contextlib.suppress(StoreError, OSError):  # what cannot be read is fsck's
            found += _leftovers(run)
    return found


def _leftovers(run: RunFolder) -> Iterator[Leftover]:
    state = run.state()
    if state == "running":
        return
    why = None
    if state == "failed":
        why = f"failed ({run.failure()})"
    elif state != "done":
        why = _replaced(run.identity())
    if why:
        yield Leftover(run, run.path, why, _size(run.path))
        return
    for path in half_written(run.path):
        yield Leftover(run, path, "half written by a process that was killed", _size(path))
    for folder in (run.path, run.checkpoints):
        for name in file_names(folder):
            if name.endswith(".damaged"):
                yield Leftover(run, folder / name, "set aside as damaged", _size(folder / name))
    if state == "done" and run.checkpoints.exists():
        yield Leftover(run, run.checkpoints, "checkpoints of a finished run", _size(run.checkpoints))


def _replaced(identity: Identity) -> str | None:
    """Return why no command goes on with an unfinished run; None if one may, or if that cannot be known."""
    if identity.engine_version != ENGINE_VERSION:
        return f"unfinished, of engine version {identity.engine_version}, which is no more"
    try:
        present, version = get_method(identity.method.id).version, identity.method.version
    except UsageError:  # of a file, perhaps
        return None
    replaced = None not in (present, version) and present != version
    return f"unfinished, of version {version} of {identity.method.id}, which is no more" if replaced else None


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@dataclass
class Checked:
    """A run, a sentence for everything that is damaged or was mended, and whether it is sound now."""

    key: str
    lines: list[str] = field(default_factory=list)
    is_sound: bool = True


def check_store(store: Store, repair: bool = False) -> Iterator[Checked]:
    """Read all files of all runs, whatever the index says, and yield what was found, a run at a time.

    Args:
        repair: write identities anew from records, and set aside what cannot be used: a run computes it again.

    Raises:
        StoreError: the store itself cannot be read.
    """
    for run in store.runs():
        checked = Checked(run.key)
        try:
            (_check_finished if run.was_done else _check_unfinished)(run, checked, repair)
        except StoreError as error:
            checked.lines.append(str(error))
            checked.is_sound = False
        if not checked.is_sound:
            void_in_index(store.root, run.key)
        yield checked


def _check_finished(run: RunFolder, checked: Checked, repair: bool) -> None:
    try:
        record = run.check()
    except StoreError as error:
        told = run.mend() if repair else None
        checked.lines.append(told or str(error))
        checked.is_sound = bool(told)
    else:
        if not run.has_sums:
            checked.lines.append(f"{NO_SUMS}{_with_sums(run, record) if repair else ''}")


def _with_sums(run: RunFolder, record: Record) -> str:
    """Write the sums of a run that has none; return what is said of that."""
    if not run.acquire():
        return ""
    try:
        run.rewrite(record)
    finally:
        run.release()
    return "; written for the files as they are"


def _check_unfinished(run: RunFolder, checked: Checked, repair: bool) -> None:
    for path in checkpoint_files(run.checkpoints):
        _, problem = read_checkpoint(path, run.key)
        if problem and is_there(path):  # a run that goes on removes its older ones
            checked.lines.append(f"{path} {problem}")
            checked.is_sound = checked.is_sound and _mended(run, path, repair)
    if run.state() != "running":
        run.check_identity()


def _mended(run: RunFolder, path: Path, repair: bool) -> bool:
    """Set a checkpoint aside, unless a process works on the run; return whether that was done."""
    if not repair or not run.acquire():
        return False
    try:
        set_aside(path)
    finally:
        run.release()
    return not path.exists()
