"""Reading image files: as torchvision and timm do, without what they get wrong in silence."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from cakdbench.utils.errors import UsageError

BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF
DARK = 16
"""An image of 16 bits per value that stays below this, of 256, was written with the range of another depth."""


LEAVE_OUT = ", or leave out all such images with --on-bad-image skip"


class FileImages:
    """Images decoded from their files at every use."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __call__(self, index: int) -> Image.Image:
        return dataset_image(self.paths[index])


def dataset_image(file: Any, name: str = "") -> Image.Image:
    """Return an image of a dataset, see `read_image`: it can be left out where it cannot be decoded."""
    try:
        return read_image(file, name)
    except UsageError as error:
        raise UsageError(f"{error}{LEAVE_OUT}") from error


def read_image(file: Any, name: str = "") -> Image.Image:
    """Return the first frame of an image file as RGB.

    As in torchvision and timm transparency is dropped, and EXIF's orientation is not followed. Of 16 bits per value the
    higher 8 are kept, in grey as Pillow does in colour.

    Args:
        file: its path, or the file opened for reading bytes.
        name: what errors call it; default: the path.

    Raises:
        UsageError: Pillow cannot decode it, or nothing says which value is white.
    """
    try:
        with Image.open(file) as image:
            return _rgb(image)
    except Exception as error:  # whatever Pillow's decoders make of damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{name or file} cannot be decoded ({reason}); replace it by an intact copy with 8 bits per value"
        ) from error


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    """Return an image as RGB; raises ValueError where its mode leaves open which value is white."""
    if image.format == "TIFF" and image.height > max(box[3] for _, box, *_ in image.tile if box):
        raise ValueError("it has fewer rows than it says")  # Pillow leaves the rest black
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # which end at 16 bits
        return _deep_grey(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} leaves open which value is white")
    deep = re.search("(?<!BGR);16", str([tile[3] for tile in image.tile]))  # BGR;16 has 16 bits per pixel
    rgb = image.convert("RGB")
    if deep and np.asarray(rgb).max() < DARK:
        raise ValueError("it uses at most 12 of its 16 bits, which leaves open which value is white")
    return rgb


def _deep_grey(image: Image.Image) -> Image.Image:
    """Return the higher 8 bits of 16, or of the 12 that a TIFF says it has."""
    tags = getattr(image, "tag_v2", {})
    bits = 12 if tags.get(BITS) == (12,) else 16
    values = np.asarray(image)
    if bits == 16 and 0 < values.max() < DARK << 8:
        raise ValueError(f"mode {image.mode}, but no value above {values.max()}: it leaves open which value is white")
    grey = (values >> bits - 8).astype(np.uint8)
    return Image.fromarray(~grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey).convert("RGB")
