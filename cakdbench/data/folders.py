"""Folders of images, one folder per class: torchvision's ImageFolder, which tells what it leaves out."""

import os
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile
from torchvision.datasets import ImageFolder

from cakdbench.data.classes import some
from cakdbench.utils.errors import UsageError

NOTES = frozenset(".txt .csv .tsv .json .xml .yaml .yml .toml .md .rst .html .log .db .ini .py .sh".split())
"""Types of files that lie beside images without being any; of all others, half a class might be lost."""
HIDE = "begin the name with a dot"


class ClassFolders(ImageFolder):
    """The images below a folder, of all types that Pillow reads; the first level of folders names their classes.

    Classes are in the order of their names by code point, as in torchvision. Names that begin with a dot are left out,
    at any depth.

    Args:
        root: the folder of a split, such as `pets/train`.

    Raises:
        OSError: there is no such folder, or no folder in it.
        UsageError: an image lies outside of the class folders, a class has none, or files are of types nobody reads.
    """

    def __init__(self, root: Path):
        self.others: list[str] = []
        super().__init__(str(root), is_valid_file=self._is_image, allow_empty=True)
        self._check_links()
        self._check_outside()
        self._check_others()
        self._check_empty()

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        if not classes:
            raise FileNotFoundError(f"there are only hidden folders in {directory}")
        return classes, {name: number for number, name in enumerate(classes)}

    def _is_image(self, path: str) -> bool:
        if f"{os.sep}." in path[len(str(self.root)) :]:
            return False
        kind = _kind(path)
        if kind in _readable_types() or (kind not in NOTES and os.path.isfile(path) and _opens(path)):
            return True
        self.others.append(path)
        return False

    def _check_links(self) -> None:
        places: dict[str, str] = {}
        for folder in dict.fromkeys(os.path.dirname(path) for path, _ in self.samples):
            if (first := places.setdefault(os.path.realpath(folder), folder)) != folder:
                raise UsageError(f"{first} and {folder} are one folder, by a link: remove the link")

    def _check_outside(self) -> None:
        files = sorted(e.name for e in os.scandir(self.root) if not e.is_dir() and not e.name.startswith("."))
        self.others += [os.path.join(self.root, name) for name in files if _kind(name) in NOTES]
        if outside := [name for name in files if _kind(name) not in NOTES]:
            raise UsageError(
                f"{some(outside)} in {self.root} outside of the class folders: move it into one, or {HIDE}"
            )

    def _check_others(self) -> None:
        """Refuse files that may be images of a type Pillow does not read; tell of all the others."""
        for path in self.others:
            if _kind(path) not in NOTES:
                raise UsageError(f"{self._told('no images that Pillow reads')}: convert or remove them, or {HIDE}")
        if self.others:
            warnings.warn(self._told("no images, and left out"), stacklevel=2)

    def _told(self, what: str) -> str:
        kinds = Counter(_kind(path) or "without a type" for path in self.others)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        first = min(self.others, key=lambda path: (_kind(path) in NOTES, path))
        return f"files in {self.root} are {what} ({counts}; such as {os.path.relpath(first, self.root)})"

    def _check_empty(self) -> None:
        filled = {label for _, label in self.samples}
        if empty := [name for name in self.classes if self.class_to_idx[name] not in filled]:
            raise UsageError(f"{self.root} has class folders without images: {some(empty)}; fill or remove them")


def _kind(path: str) -> str:
    return os.path.splitext(path)[1].lower()


@cache
def _readable_types() -> frozenset[str]:
    """Return the extensions of the formats that Pillow opens, and not only recognises."""
    types = Image.registered_extensions().items()
    return frozenset(kind for kind, format in types if format in Image.OPEN and not _is_stub(Image.OPEN[format][0]))


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)


def _opens(path: str) -> bool:
    """Return True for an image whose name does not say that it is one."""
    try:
        with Image.open(path) as image:
            return not isinstance(image, ImageFile.StubImageFile)
    except Exception:  # whatever Pillow's decoders make of other files
        return False
