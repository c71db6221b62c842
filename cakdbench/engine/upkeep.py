"""Keep a store in order: find what is left of failed and replaced runs, and what is damaged."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cakdbench.models.weights import state_sha256
from cakdbench.records import ENGINE_VERSION, Identity
from cakdbench.registry import get_method
from cakdbench.store import RunFolder, Store, checkpoint_files
from cakdbench.store.files import file_names
from cakdbench.store.folder import half_written
from cakdbench.students.weights import read_weights
from cakdbench.train.checkpoint import read_checkpoint, set_aside
from cakdbench.utils.errors import StoreError, UsageError


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
        """Remove it, unless a process works on the run; return whether it is gone."""
        try:
            if not self.run.acquire():
                return False
        except StoreError:
            return False
        whole = self.path == self.run.path
        try:
            for path in (child for child in self.path.iterdir() if child.name != "lock") if whole else [self.path]:
                _remove(path)
        except OSError:
            return False
        finally:
            self.run.release()
        if whole:  # the lock last, and not while it is held: Windows removes no open file
            shutil.rmtree(self.path, ignore_errors=True)
        return not self.path.exists()


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
            (_check_finished if run.is_done else _check_unfinished)(run, checked, repair)
        except StoreError as error:
            checked.lines.append(str(error))
            checked.is_sound = False
        yield checked


def _check_finished(run: RunFolder, checked: Checked, repair: bool) -> None:
    try:
        record = run.check()
        if not run.has_sums:
            state, _ = read_weights(run.student)
            if state_sha256(state) != record.weights_sha256:
                raise StoreError(f"damaged file {run.student}: not the weights of the record")
    except StoreError as error:
        told = run.mend() if repair else None
        checked.lines.append(told or str(error))
        checked.is_sound = bool(told)


def _check_unfinished(run: RunFolder, checked: Checked, repair: bool) -> None:
    for path in checkpoint_files(run.checkpoints):
        _, problem = read_checkpoint(path, run.key)
        if problem:
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
