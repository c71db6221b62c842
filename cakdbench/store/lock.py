"""The lock of a run: who holds it works on the run. Asking whether anybody does takes nothing, and writes nothing.

The lock file itself stays empty, since Windows lets nobody read what is locked; a note beside it says who the holder
is. The note is a hint for readers and the lock alone decides.
"""

import contextlib
import errno
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cakdbench.store.files import reason, remove
from cakdbench.utils.errors import StoreError

HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What systems answer where another process holds a lock."""

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int, shared: bool = False) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(handle: int, shared: bool = False) -> None:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@dataclass(frozen=True)
class Holder:
    """The process that took a run: on which host, and what it computes on."""

    host: str
    pid: int
    device: str = ""

    @property
    def is_gone(self) -> bool:
        """Return True if it was on this host and has ended."""
        return self.host == platform.node() and not psutil.pid_exists(self.pid)


class RunLock:
    """The lock of one run's folder."""

    def __init__(self, folder: Path):
        self.path = folder / "lock"
        self.note = folder / "holder.json"

    @cached_property
    def _lock(self) -> FileLock:
        return FileLock(self.path)

    @property
    def is_mine(self) -> bool:
        return "_lock" in vars(self) and self._lock.is_locked

    def acquire(self, device: str = "") -> bool:
        """Take the lock for this process; False if a live process has it.

        Raises:
            StoreError: it cannot be had at all.
        """
        try:
            if not (self._try() or self._try_again()):
                return False
        except (OSError, NotImplementedError) as error:
            what = reason(error) if isinstance(error, OSError) else str(error)
            raise StoreError(f"cannot lock {self.path.parent}: {what}") from error
        holder = Holder(platform.node(), os.getpid(), device)
        with contextlib.suppress(OSError):
            self.note.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        return True

    def _try(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _try_again(self) -> bool:
        """Try once more where no live process is known to hold it: one that looks holds it for a moment."""
        holder = self.read_note()
        if holder and not holder.is_gone:
            return False
        time.sleep(0.01)
        return self._try()

    def release(self) -> None:
        remove(self.note)
        with contextlib.suppress(OSError):
            self._lock.release()

    def holder(self) -> Holder | None:
        """Return the other process that works on the run; None if none does. Takes no lock that others would miss."""
        if self.is_mine:
            return None
        note = self.read_note()  # first: without one nobody works, and most runs need no further look
        return note if note and _is_held(self.path) else None

    def read_note(self) -> Holder | None:
        """Return who last took the run and has not given it back; None without a note."""
        try:
            return Holder(**json.loads(self.note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def describe(self) -> str:
        """Return who holds it, and the file to look at if that process is no more."""
        note = self.read_note()
        if note is None:
            return f"{self.path} is held by a process unknown"
        told = f"{self.path} is held by process {note.pid} on {note.host}"
        if note.is_gone:
            return f"{told}, which has ended: a process it started still has the file open"
        if note.host != platform.node():
            return f"{told}; if that host is down, the lock ends when the file server gives it up"
        return told


def _is_held(path: Path) -> bool:
    """Return True if a live process holds a lock; a read-only disk will do."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        _take(handle, shared=True)
    except OSError as error:
        return error.errno in HELD
    finally:
        os.close(handle)
    return False


def require_locks(root: Path) -> None:
    """Find out whether a lock on this disk keeps others out.

    Raises:
        StoreError: it does not, or the folder cannot be written.
    """
    path = root / ".locks"
    with contextlib.ExitStack() as stack:
        try:
            handles = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644) for _ in range(2)]
        except OSError as error:
            raise StoreError(f"cannot write {path}: {reason(error)}") from error
        for handle in handles:
            stack.callback(os.close, handle)
        try:
            _take(handles[0])
            _take(handles[1])
        except OSError as error:
            if error.errno in HELD:  # by the first handle, or by another process that looks
                return
            fault = reason(error)
        else:
            fault = "a lock keeps nobody out"
    raise StoreError(
        f"the disk of {root} has no working locks ({path}, seen from {platform.node()}: {fault}), so two processes "
        "would compute the same runs: mount it with locks (NFS with its lock service, Lustre with -o flock), or keep "
        "the store on another disk (--store)"
    )
