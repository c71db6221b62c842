"""Small data of the shapes that the real datasets have."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def random_arrays(count: int, side: int = 12, classes: int = 4, seed: int = 0):
    """Colour images of noise, and labels of every class."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, side, side, 3), np.uint8)
    return images, np.arange(count) % classes


def grey_halves():
    return [
        (
            np.random.default_rng(seed).integers(0, 256, (n, 28, 28), np.uint8),
            (np.arange(n) % 10).astype(np.uint8),
        )
        for seed, n in enumerate((30, 20))
    ]


def encoded(seed: int = 0, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(random_arrays(1, 8, seed=seed)[0][0]).save(file, format)
    return file.getvalue()


def image_tree(folder: Path, classes: list[str], per_class: int = 2) -> Path:
    """A folder per class; images of one folder are alike."""
    content = encoded(zlib.crc32(folder.name.encode()))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            (folder / name / f"{number}.png").write_bytes(content)
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_fashion(folder: Path, train, test) -> Path:
    """The four files; `train` and `test` are images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder
