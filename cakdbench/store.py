"""The store: one folder a run, named by its key; its files say in which state the run is.

    runs/<key>/identity.json      what the run is (the key is the hash of it)
    runs/<key>/about.json         its names for readers: the method's label, the recipe
    runs/<key>/lock               held by the live process that works on the run
    runs/<key>/checkpoints/       while it is unfinished: the last two
    runs/<key>/failure.json       the reason, if the last attempt failed
    runs/<key>/error.txt          the last frames of the traceback, if it was an error of the method
    runs/<key>/log.txt            how it goes, or went, for readers; appended
    runs/<key>/losses.csv         the same in numbers
    runs/<key>/predictions.npy    predicted class of every test image, uint16
    runs/<key>/student.safetensors
    runs/<key>/student_ema.safetensors   its averaged weights, if they are kept
    runs/<key>/modules.safetensors   what was trained beside it and the method's buffers, if they are kept
    runs/<key>/record.json        written last: the run is done

Files appear whole or not at all (temporary file, fsync, rename), so that a kill at any moment is harmless.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from cakdbench.records import FORMAT, Identity, Record
from cakdbench.utils.errors import StoreError, UsageError, unknown

T = TypeVar("T", bound=BaseModel)

CHECKPOINT = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")
"""Names of checkpoints: the step, and the beginning of the content's sha256."""


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name)), reverse=True)


def checkpoint_step(folder: Path) -> int:
    """Return the optimizer steps made at the newest checkpoint, from its name; 0 without one."""
    newest = checkpoint_files(folder)
    return int(newest[0].name.split("-")[1]) if newest else 0


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StoreError: the file cannot be written, e.g. because the disk is full; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StoreError(
            f"cannot write {path}: {error.strerror}; nothing finished is lost. "
            "Free some space or mend the permissions, then run the same command again"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Let a rename outlive a power cut, where the system can: Windows opens no folders, some file systems sync none."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)
        os.fsync(handle)


def canonical(identity: Identity) -> str:
    """Return JSON with sorted keys, without spaces and without fields that are None: equal content, equal bytes."""
    return json.dumps(_dump(identity), sort_keys=True, separators=(",", ":"))


def _dump(value: Any) -> Any:
    """Return JSON values; fields that are None are left out, and -0.0 is 0.0."""
    if isinstance(value, BaseModel):
        return {name: _dump(field) for name, field in value if field is not None}
    if isinstance(value, dict):
        return {name: _dump(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_dump(entry) for entry in value]
    return value + 0.0 if isinstance(value, float) else value


def run_key(identity: Identity) -> str:
    """Return a readable stem and the first 16 hex digits of the identity's sha256.

    The stem has the method's id and not its label, since which variants have a name may change.
    """
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
    stem = f"{identity.method.id}-{identity.student}-{identity.dataset.name}-s{identity.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', stem)}-{digest}"


def unreadable(path: Path, content: bytes, error: ValidationError) -> str:
    """Return what is wrong with a file that does not fit its schema: it is of an earlier format, or damaged."""
    if b'"schema_version"' in content:  # a field of format 1 that format 2 does not have
        return f"{path} is of an earlier cakdbench: `cakdbench migrate {path.parent.parent}` brings it up to date"
    if (form := _format_of(content)) > FORMAT:
        return f"{path} is of format {form}, which this cakdbench does not read: it is of a newer one, update"
    problem = error.errors()[0]
    return f"damaged file {path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _format_of(content: bytes) -> int:
    """Return the format number that a record says it has; 0 without one."""
    try:
        form = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError):
        return 0
    return form if isinstance(form, int) else 0


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.predictions = path / "predictions.npy"
        self.student = path / "student.safetensors"
        self.ema = path / "student_ema.safetensors"
        self.modules = path / "modules.safetensors"
        self._record = path / "record.json"
        self._failure = path / "failure.json"
        self._error = path / "error.txt"
        self._identity = path / "identity.json"
        self._about = path / "about.json"
        self._lock = FileLock(path / "lock")

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def is_done(self) -> bool:
        return self._record.exists()

    def state(self) -> str:
        """Return one of done, running, failed, interrupted, planned."""
        if self.is_done:
            return "done"
        if self._locked_elsewhere():
            return "running"
        if self._failure.exists():
            return "failed"
        return "interrupted" if self.checkpoints.is_dir() else "planned"

    def _locked_elsewhere(self) -> bool:
        if self._lock.is_locked or not self.path.exists():
            return False
        if self.acquire():
            self.release()
            return False
        return True

    def acquire(self) -> bool:
        """Take the run for this process; False if a live process has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise StoreError(f"cannot lock {self.path}: {error.strerror}") from error
        return True

    def release(self) -> None:
        self._lock.release()

    def open(self, identity: Identity, label: str, recipe: str) -> None:
        """Note what the run is and how readers call it; forget what an earlier attempt left half-written."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink()
        write_atomic(self._about, json.dumps({"label": label, "recipe": recipe}).encode())
        write_atomic(self._identity, canonical(identity).encode())
        self._failure.unlink(missing_ok=True)
        self._error.unlink(missing_ok=True)

    def identity(self) -> Identity:
        return self._read(self._identity, Identity)

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
        return self._read(self._record, Record)

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            return kind.model_validate_json(content := path.read_bytes())
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            raise StoreError(unreadable(path, content, error)) from error

    def set_damaged_aside(self) -> str | None:
        """Rename the record of a run whose files are not whole, so that it counts as unfinished; return the fault."""
        if not self.is_done:
            return None
        try:
            self._check_files(self.record())
        except StoreError as error:
            if _format_of(self._record.read_bytes()) > FORMAT:
                raise  # whole, and not to be computed again by older code
            os.replace(self._record, self._record.with_suffix(".json.damaged"))
            return str(error)
        self._sweep()
        return None

    def _check_files(self, record: Record) -> None:
        if not self.student.is_file():
            raise StoreError(f"missing file {self.student}")
        try:
            sha256 = hashlib.sha256(self.predictions.read_bytes()).hexdigest()
        except OSError as error:
            raise StoreError(f"missing file {self.predictions}") from error
        if sha256 != record.predictions_sha256:
            raise StoreError(f"damaged file {self.predictions}: not the predictions of the record")

    def _sweep(self) -> None:
        """Remove the checkpoints, which a finished run does not need."""
        for checkpoint in self.checkpoints.glob("*"):
            checkpoint.unlink(missing_ok=True)
        if self.checkpoints.is_dir():
            self.checkpoints.rmdir()

    def finish(self, record: Record) -> None:
        """Make the run done: everything it refers to is on disk before the record appears."""
        write_atomic(self._record, (record.model_dump_json(indent=1) + "\n").encode())
        self._sweep()

    def fail(self, reason: str, frames: str = "") -> None:
        """Note why the attempt failed, and the last frames of the traceback."""
        if frames:
            write_atomic(self._error, frames.encode())
        write_atomic(self._failure, json.dumps({"reason": reason}).encode())

    def failure(self, since: float = 0.0) -> str | None:
        """Return the reason why the last attempt failed, if it failed after `since` (seconds of the epoch)."""
        try:
            if self._failure.stat().st_mtime < since:
                return None
            return json.loads(self._failure.read_bytes())["reason"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            return f"unreadable {self._failure}"


class Store:
    """All runs under one folder."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def run(self, identity: Identity) -> RunFolder:
        return RunFolder(self.root / run_key(identity))

    def runs(self) -> Iterator[RunFolder]:
        """Yield every run of the store, in the order of their keys."""
        if self.root.is_dir():
            for path in sorted(self.root.iterdir()):
                if (path / "identity.json").exists():
                    yield RunFolder(path)

    def find(self, name: str) -> RunFolder:
        """Return the run, finished or not, that a folder, a key or the start of one key names.

        Raises:
            UsageError: there is none, or there are several.
        """
        if (Path(name) / "identity.json").is_file():
            return RunFolder(Path(name))
        known = [run.key for run in self.runs()]
        return RunFolder(self.root / one_key(name, known))

    def records(self) -> tuple[list[Record], list[str]]:
        """Return the records of the finished runs, and what is wrong with those that cannot be read."""
        records, damage = [], []
        for run in self.runs():
            if run.state() == "done":
                try:
                    records.append(run.record())
                except StoreError as error:
                    damage.append(str(error))
        return records, damage


def one_key(name: str, keys: Iterable[str], what: str = "run", others: Iterable[str] = ()) -> str:
    """Return the key that a name means.

    Args:
        what, others: what else the name could have been, and the names of those, for the error.

    Raises:
        UsageError: there is none, or there are several.
    """
    keys = list(keys)
    found = find_keys(name, keys)
    if len(found) > 1:
        raise UsageError(f"{name!r} is the start of {len(found)} runs, as of {found[0]} and {found[1]}")
    if not found:
        raise unknown(what, name, [*keys, *others])
    return found[0]


def find_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys that a name means: the key itself, or every key it is the start of."""
    keys = list(keys)
    return [name] if name in keys else [key for key in keys if key.startswith(name)]
