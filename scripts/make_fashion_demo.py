"""Make the embedded dataset `fashion_demo` from the idx files of Fashion-MNIST.

    python scripts/make_fashion_demo.py FOLDER [--output FILE]

FOLDER holds the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]. The first 500 images of each
class of the training file and the first 200 of each class of the test file are kept, in the files' order. The
result depends on nothing else, to the byte: the archive is packed with bzip2, whose output does not vary from
one build of the library to the next, as zlib's does.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np

from cakdbench.data.idx import read_split

PER_CLASS = {"train": 500, "test": 200}
OUTPUT = Path(__file__).parents[1] / "cakdbench" / "data" / "fashion_demo.npz"


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the first `count` samples of every class."""
    kept = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    if min(map(len, kept)) < count:
        raise SystemExit(f"a class has fewer than {count} images; are these the files of Fashion-MNIST?")
    return np.sort(np.concatenate(kept))


def subset(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the demo set: `{train,test}_images (N, 28, 28)` and `{train,test}_labels (N,)`."""
    arrays = {}
    for split, count in PER_CLASS.items():
        images, labels = read_split(folder, split)
        kept = first_of_each_class(labels, count)
        arrays |= {f"{split}_images": images[kept], f"{split}_labels": labels[kept]}
    return arrays


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz archive that is the same, byte for byte, for the same arrays."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_BZIP2
            entry.create_system = 3
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            file.writestr(entry, content.getvalue())
    return archive.getvalue()


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="where the four idx files are")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    args = parser.parse_args()
    args.output.write_bytes(pack(subset(args.folder)))


if __name__ == "__main__":
    main()
