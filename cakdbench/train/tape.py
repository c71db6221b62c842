"""A teacher's tape: what it says of every local batch of a stream, kept to be replayed.

    <folder>/tape.json                               what it is of
    <folder>/logits-00012-float32-<sha256>.npy       an epoch: (local batches, L, classes)
    <folder>/pooled-00012-float32-<sha256>.npy       an epoch: (local batches, L, width)
    <folder>/lock                                    held by the process that records

An epoch's file appears whole or not at all. Its name ends in the first 16 digits of its content's sha256. NumPy has no
bfloat16: its bits are kept as 16-bit integers.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cakdbench.models.staged import Output
from cakdbench.store import write_atomic

Part = Literal["logits", "pooled"]
PARTS: tuple[Part, ...] = ("logits", "pooled")
"""What of a teacher's output a tape can have."""
NAME = re.compile(r"(logits|pooled)-(\d{5})-(float32|float16|bfloat16)-([0-9a-f]{16})\.npy")
STORED = {"float32": "<f4", "float16": "<i2", "bfloat16": "<i2"}


class Epoch:
    """An epoch of a tape, mapped into memory."""

    def __init__(self, files: dict[Part, Path]):
        self._dtypes = {part: getattr(torch, path.name.split("-")[2]) for part, path in files.items()}
        self._arrays = {part: np.load(path, mmap_mode="r") for part, path in files.items()}

    def output(self, row: int) -> Output:
        """Return what the teacher said of local batch `row`, on the CPU; None for parts that are not on tape."""
        tensors = {
            part: torch.from_numpy(np.array(rows[row])).view(self._dtypes[part]) for part, rows in self._arrays.items()
        }
        return Output(tensors.get("logits"), tensors.get("pooled"))


class Tape:
    """The files of one tape.

    Args:
        rows: local batches of an epoch, over all processes.
        parts: those that are recorded.
        about: the content of `tape.json`.

    Attributes:
        damaged: files that are as good as not there: they are known to be damaged, and may not have been removable.
    """

    def __init__(self, folder: Path, rows: int = 0, parts: tuple[Part, ...] = PARTS, about: bytes = b""):
        self.folder = folder
        self.rows = rows
        self.parts = parts
        self.about = about
        self.damaged: set[Path] = set()
        self._lock = FileLock(folder / "lock")

    def files(self, part: Part) -> dict[int, Path]:
        """Return the files of a part by epoch."""
        paths = self.folder.glob(f"{part}-*.npy")
        sound = (path for path in paths if path not in self.damaged)
        return {int(match[2]): path for path in sound if (match := NAME.fullmatch(path.name))}

    def missing(self, epoch: int) -> list[Part]:
        """Return the parts of an epoch that are to be recorded."""
        return [part for part in self.parts if epoch not in self.files(part)]

    def open(self, epoch: int, parts: list[Part]) -> Epoch | None:
        """Return an epoch with these parts; None if it is not on tape."""
        files = {part: path for part in parts if (path := self.files(part).get(epoch))}
        with contextlib.suppress(OSError):  # dropped by another process
            return Epoch(files) if files.keys() == set(parts) else None
        return None

    def remove_damaged(self, epoch: int, parts: list[Part]) -> list[Path]:
        """Remove the files of an epoch whose content is not what was written, or cannot be read; return them."""
        paths = (path for part in parts for path in self.folder.glob(f"{part}-{epoch:05d}-*.npy"))
        damaged = [path for path in paths if NAME.fullmatch(path.name) and is_damaged(path)]
        for path in damaged:
            with contextlib.suppress(OSError):
                path.unlink()
        return damaged

    def acquire(self) -> bool:
        """Take the tape for recording, and remove what a dead process left; False if a live one records.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        if self.about:
            write_atomic(self.folder / "tape.json", self.about)
        return True

    def release(self) -> None:
        self._lock.release()


class Recording:
    """An epoch on its way to the tape. Several processes write into one file, each its own local batches."""

    def __init__(self, tape: Tape, epoch: int, parts: list[Part]):
        self.tape = tape
        self.parts = parts
        self._stems = {part: f"{part}-{epoch:05d}" for part in parts}
        self._files: dict[Part, tuple[IO[bytes], int, str]] = {}

    def add(self, row: int, output: Output) -> None:
        """Write what the teacher said of local batch `row`.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        for part in self.parts:
            tensor = getattr(output, part).cpu()
            if part not in self._files:
                self._files[part] = self._begin(part, tensor)
            file, start, dtype = self._files[part]
            content = _bits(tensor).tobytes()
            file.seek(start + row * len(content))
            file.write(content)

    def _begin(self, part: Part, tensor: Tensor) -> tuple[IO[bytes], int, str]:
        """Open the temporary file of a part; every process writes the same header."""
        handle = os.open(self._temporary(part), os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        file, dtype = open(handle, "r+b"), str(tensor.dtype).removeprefix("torch.")
        shape = self.tape.rows, *tensor.shape
        header = {"descr": STORED[dtype], "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file, file.tell(), dtype

    def _temporary(self, part: Part) -> Path:
        return self.tape.folder / f".{self._stems[part]}.tmp"

    def close(self) -> None:
        """Bring what this process has written to the disk."""
        for file, *_ in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def keep(self) -> None:
        """Make the epoch a part of the tape, once all processes have closed it."""
        for part, (*_, dtype) in self._files.items():
            temporary = self._temporary(part)
            os.replace(temporary, self.tape.folder / f"{self._stems[part]}-{dtype}-{digest(temporary)}.npy")

    def discard(self) -> None:
        """Remove what was written."""
        for part, (file, *_) in self._files.items():
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                self._temporary(part).unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Return the first 16 digits of the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def is_damaged(path: Path) -> bool:
    """Return True for a file whose content is not that of its name, or cannot be read."""
    try:
        return digest(path) != path.stem.rpartition("-")[2]
    except FileNotFoundError:  # dropped by another process
        return False
    except OSError:
        return True


def _bits(tensor: Tensor) -> np.ndarray:
    tensor = tensor.contiguous()
    return (tensor if tensor.dtype == torch.float32 else tensor.view(torch.int16)).numpy()
