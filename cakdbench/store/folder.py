"""One run on disk: its state, its files, and whether they are what was written."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cakdbench.records import Identity, Record
from cakdbench.store.faults import REMEDY, Fault, find_faults, tensors_sha256, unreadable, weight_faults
from cakdbench.store.files import (
    SUMS,
    file_names,
    file_sha256,
    is_there,
    read_sums,
    reason,
    remove,
    replace_file,
    sums_text,
)
from cakdbench.store.index import append_to_index, void_in_index
from cakdbench.store.keys import canonical, run_key
from cakdbench.store.lock import Holder, RunLock
from cakdbench.store.mending import mend_files
from cakdbench.store.summary import Summary, take_stamp
from cakdbench.utils.errors import StoreError

T = TypeVar("T", bound=BaseModel)

CHECKPOINT = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")
"""Names of checkpoints: the step, and the beginning of the content's sha256."""
NO_SUMS = "no SHA256SUMS: whether its record was edited cannot be known; `cakdbench fsck --repair` writes them"


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first.

    Raises:
        StoreError: the folder cannot be read.
    """
    return [folder / name for name in sorted(filter(CHECKPOINT.fullmatch, file_names(folder)), reverse=True)]


def checkpoint_step(folder: Path) -> int:
    """Return the optimizer steps made at the newest checkpoint, from its name; 0 where none can be seen."""
    with contextlib.suppress(StoreError):
        for newest in checkpoint_files(folder):
            return int(newest.name.split("-")[1])
    return 0


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        id: of this failure alone; by it, and by no clock, a new one is told from one of before.
        attempt: of the command whose process it was, see `Options.attempt`.
    """

    reason: str
    id: str = ""
    attempt: str = ""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.predictions = path / "predictions.npy"
        self.student = path / "student.safetensors"
        self.ema = path / "student_ema.safetensors"
        self.modules = path / "modules.safetensors"
        self.record_file = path / "record.json"
        self._failure = path / "failure.json"
        self._error = path / "error.txt"
        self.identity_file = path / "identity.json"
        self.sums_file = path / SUMS
        self._about = path / "about.json"
        self._sums: dict[str, str] = {}

    @cached_property
    def lock(self) -> RunLock:
        return RunLock(self.path)

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def is_done(self) -> bool:
        return is_there(self.record_file)

    @property
    def was_done(self) -> bool:
        """Return True if the run is done, or was: it has sums, and neither its record nor checkpoints to go on from."""
        return self.is_done or (self.has_sums and not is_there(self.checkpoints) and not self.holder())

    def state(self) -> str:
        """Return one of done, running, failed, interrupted, planned. Nothing is locked or written for it."""
        if self.is_done:
            return "done"
        if self.holder():
            return "running"
        if is_there(self._failure):
            return "failed"
        return "interrupted" if is_there(self.checkpoints) else "planned"

    def holder(self) -> Holder | None:
        """Return the other process that works on the run, if one does."""
        return self.lock.holder()

    def acquire(self, device: str = "") -> bool:
        """Take the run for this process, which computes on `device`; False if a live process has it.

        Raises:
            StoreError: there is no store, or its disk does not let it be locked.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot lock {self.path}: {reason(error)}") from error
        return self.lock.acquire(device)

    def release(self) -> None:
        self.lock.release()

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the run, whole or not at all, and keep its sum for `finish`."""
        replace_file(path, content)
        self._sums[path.name] = hashlib.sha256(content).hexdigest()

    def open(self, identity: Identity, label: str, recipe: str) -> None:
        """Note what the run is and how readers call it; forget what an earlier attempt left half-written."""
        with contextlib.suppress(OSError):  # the first file will say why
            self.path.mkdir(parents=True, exist_ok=True)
        for litter in half_written(self.path):
            remove(litter)
        if not self.is_done:
            remove(self.sums_file)
        self.write(self._about, json.dumps({"label": label, "recipe": recipe}).encode())
        self.write(self.identity_file, canonical(identity).encode())
        remove(self._failure)
        remove(self._error)

    def identity(self) -> Identity:
        return self._read(self.identity_file, Identity)

    def label(self) -> str:
        """Return the method's label; its id where nothing says which."""
        return self._noted("label") or self.identity().method.id

    def recipe_name(self) -> str:
        """Return the name of the recipe; nothing where nothing says which."""
        return self._noted("recipe")

    def _noted(self, name: str) -> str:
        try:
            return str(json.loads(self._about.read_bytes())[name])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def record(self) -> Record:
        return self._read(self.record_file, Record)

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            return kind.model_validate_json(content := path.read_bytes())
        except FileNotFoundError as error:
            raise StoreError(f"missing file {path}") from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {reason(error)}") from error
        except ValidationError as error:
            raise StoreError(unreadable(path, content, error)) from error

    @property
    def has_sums(self) -> bool:
        """Return True for a run that has noted the sums of its files when it was done."""
        return is_there(self.sums_file)

    @property
    def is_handed_over(self) -> bool:
        """Return True for a record that came without sums and weights, for the sake of its numbers."""
        return not self.has_sums and not is_there(self.student)

    def check(self) -> Record:
        """Return the record of a finished run, all of whose files are as they were written.

        Raises:
            StoreError: one is missing, damaged, or of another run; the message says what helps.
        """
        return self._without(find_faults(self))

    def check_result(self) -> Record:
        """Return the record, if it and the predictions are as they were written: the numbers can be believed.

        Raises:
            StoreError: they are not.
        """
        return self._without(find_faults(self, result_alone=True))

    def _without(self, faults: Iterable[Fault]) -> Record:
        for fault in faults:
            raise fault.error
        return self.record()

    def check_weights(self, path: Path) -> None:
        """Check a file of weights before it is used; of one that is damaged the index is told, so that `run` mends it.

        Raises:
            StoreError: it is not what the run wrote.
        """
        for fault in weight_faults(self, path, read_sums(self.path)):
            void_in_index(self.path.parent, self.key)
            raise fault.error

    def check_identity(self) -> Identity:
        """Return what the run is.

        Raises:
            StoreError: nothing says so, or what does is of another run.
        """
        identity = self.identity()
        if run_key(identity) != self.key:
            raise StoreError(f"damaged file {self.identity_file}: it is of the run {run_key(identity)}; {REMEDY}")
        return identity

    def mend(self) -> str | None:
        """Make a finished run whole or unfinished; return what was wrong and has been done, None if nothing was.

        Raises:
            StoreError: see `mend_files`.
        """
        if not self.was_done or not self.acquire():
            return None
        try:
            return mend_files(self) if self.was_done else None
        finally:
            self.release()

    def set_aside(self, path: Path) -> None:
        """Rename a damaged file, so that it counts no more and can still be looked at."""
        try:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        except FileNotFoundError:  # another process has done it
            return
        except OSError as error:
            raise StoreError(f"cannot rename {path}: {reason(error)}; mend the permissions and try again") from error

    def sweep(self) -> None:
        """Remove the checkpoints, which a finished run does not need, as far as the system lets it."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def finish(self, record: Record) -> None:
        """Make the run done: everything it refers to is on disk before the record appears."""
        content = _record_bytes(record)
        self._write_sums(content, self._sums)
        replace_file(self.record_file, content)
        self.sweep()
        with contextlib.suppress(OSError):
            append_to_index(self.path.parent, [(self.key, take_stamp(self.path), Summary.of(record))])

    def _write_sums(self, record: bytes, known: Mapping[str, str]) -> None:
        """Write the sums of all files that are there; those that are not known are computed."""
        files = self.identity_file, self.predictions, self.student, self.ema, self.modules
        names = [path.name for path in files if is_there(path)]
        sums = {name: known.get(name) or file_sha256(self.path / name) for name in names}
        sums[self.record_file.name] = hashlib.sha256(record).hexdigest()
        replace_file(self.sums_file, sums_text(sums))

    def rewrite(self, record: Record) -> None:
        """Put another record in the place of a finished run's: the same result by another name. The sums follow.

        Raises:
            StoreError: the student is damaged, or a file cannot be written.
        """
        content, known = _record_bytes(record), read_sums(self.path)
        if self.student.name not in known and is_there(self.student):
            if tensors_sha256(self.student) != record.weights_sha256:
                raise StoreError(f"damaged file {self.student}: not the weights of its record")
        known[self.identity_file.name] = hashlib.sha256(canonical(record.identity).encode()).hexdigest()
        known[self.predictions.name] = record.predictions_sha256
        remove(self.sums_file)  # a kill leaves none, not those of the record before
        replace_file(self.record_file, content)
        self._write_sums(content, known)

    def fail(self, reason: str, frames: str = "", attempt: str = "") -> None:
        """Note why the attempt failed, and the last frames of the traceback."""
        if frames:
            self.write(self._error, frames.encode())
        failure = {"reason": reason, "id": uuid.uuid4().hex, "attempt": attempt}
        self.write(self._failure, json.dumps(failure).encode())

    def last_failure(self) -> Failure | None:
        """Return how the last attempt failed; None if it did not."""
        try:
            content = json.loads(self._failure.read_bytes())
            return Failure(str(content["reason"]), str(content.get("id", "")), str(content.get("attempt", "")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return Failure(f"cannot read {self._failure}: {reason(error)}")
        except (ValueError, KeyError, TypeError, AttributeError):
            return Failure(f"unreadable {self._failure}")

    def failure(self) -> str | None:
        """Return the reason why the last attempt failed."""
        failure = self.last_failure()
        return failure.reason if failure else None


def _record_bytes(record: Record) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def half_written(folder: Path) -> list[Path]:
    """Return what killed processes have left of files they were writing, as far as the disk can be read."""
    litter: list[Path] = []
    for place in (folder, folder / "checkpoints"):
        with contextlib.suppress(StoreError):
            names = file_names(place)
            litter += [place / name for name in names if name.startswith(".") and name.endswith(".tmp")]
    return litter
