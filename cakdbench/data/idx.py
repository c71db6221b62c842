"""The idx files of the MNIST family: a magic number, the shape, then unsigned bytes."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from cakdbench.utils.errors import UsageError

PARTS = {"train": "train", "test": "t10k"}


def find_idx(folder: Path, split: str, kind: str) -> Path:
    """Return the file of a split ("train" or "test") and kind ("images" or "labels"), unpacked or gzipped.

    Raises:
        FileNotFoundError: `folder` has neither.
    """
    stem = f"{PARTS[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {stem} or {stem}.gz in {folder}")


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array in `path`, gzipped if it ends in .gz.

    Raises:
        UsageError: the file is damaged or holds something else.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}); replace it by an intact copy") from error
    if raw[:3] != b"\x00\x00\x08":
        raise UsageError(f"{path} is no idx file of unsigned bytes; replace it by an intact copy")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if len(raw) - start != np.prod(shape):
        raise UsageError(f"{path} holds {len(raw) - start} values, its header promises {shape}; replace it")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images `(N, H, W)` and labels `(N,)` of a split, both uint8."""
    images, labels = (read_idx(find_idx(folder, split, kind)) for kind in ("images", "labels"))
    if len(images) != len(labels):
        raise UsageError(f"{folder} has {len(images)} {split} images but {len(labels)} labels; replace them")
    return images, labels
