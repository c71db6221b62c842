"""Files that appear whole or not at all, and how they are read where a disk may fail."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from cakdbench.utils.errors import StoreError

SUMS = "SHA256SUMS"
"""Its lines are those of `sha256sum`."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StoreError: the file cannot be written, e.g. because the disk is full; the old content is untouched.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Do the same in a folder that has to be there: a store that has gone away is not begun anew in its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _told(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {reason(error)}; nothing finished is lost. "
            "Free some space or mend the permissions, then run the same command again"
        ) from error


def reason(error: OSError) -> str:
    """Return what the system says of an error, without the path."""
    return error.strerror or str(error) or type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Let a rename outlive a power cut, where the system can: Windows opens no folders, some file systems sync none."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)
        os.fsync(handle)


def is_there(path: Path) -> bool:
    """Return True if there is a file or a folder of this name.

    Raises:
        StoreError: the disk does not say.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    return True


def file_names(folder: Path) -> list[str]:
    """Return the names in a folder; none if there is no such folder.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {reason(error)}") from error


def remove(path: Path) -> None:
    """Remove a file as far as the system lets it: what is left over does no harm."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content.

    Raises:
        StoreError: it is not there, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise StoreError(f"missing file {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error


def read_sums(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file as its writer noted it; nothing where none has.

    Raises:
        StoreError: the sums cannot be read, or are damaged: those of a run have one of its record at least.
    """
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}
    if "record.json" not in sums:
        raise StoreError(
            f"damaged file {path}: it has no sum of record.json; `cakdbench run` of the same grid mends it"
        )
    return sums


def sums_text(sums: dict[str, str]) -> bytes:
    """Return what `read_sums` reads."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
