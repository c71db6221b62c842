"""Reading images: bit depths, modes, and bytes that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from cakdbench.data.images import read_image
from cakdbench.utils.errors import UsageError

RAMP = (np.arange(400).reshape(20, 20) * 160).astype(np.uint16)
NOISE = np.random.default_rng(0).integers(60, 256, (24, 24, 3), np.uint8)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "PCX", "JPEG2000")


def saved(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


def grey(path) -> np.ndarray:
    pixels = np.asarray(read_image(path))
    assert pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("name", ["0.png", "0.tif", "0.pgm", "0.jp2"])
def test_16_bit_grey_keeps_its_range(tmp_path, name):
    assert np.array_equal(grey(saved(tmp_path / name, Image.fromarray(RAMP))), RAMP >> 8)


def test_16_bit_big_endian_and_inverted_tiffs_keep_their_range(tmp_path):
    assert np.array_equal(grey(saved(tmp_path / "0.tif", Image.fromarray(RAMP.astype(">u2")))), RAMP >> 8)
    inverted = saved(tmp_path / "1.tif", Image.fromarray(RAMP), tiffinfo={262: 0})
    assert np.array_equal(grey(inverted), 255 - (RAMP >> 8))


def test_a_12_bit_tiff_keeps_its_range(tmp_path):
    """Two pixels in three bytes: 0xFFF and 0x123."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "0.tif").write_bytes(
        b"II*\0" + struct.pack("<I", 12) + b"\xff\xf1\x23\0" + struct.pack("<H", 9) + entries + bytes(4)
    )
    assert grey(tmp_path / "0.tif").tolist() == [[0xFF, 0x12]]


def colour_png(values: np.ndarray) -> bytes:
    """`(H, W, 3)` uint16 as a PNG, which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_colour_keeps_its_range_alike():
    values = np.stack([RAMP, RAMP // 2, RAMP // 3], axis=2)
    assert np.array_equal(np.asarray(read_image(io.BytesIO(colour_png(values)))), values >> 8)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("12_bit.png", RAMP // 16, "no value above 3990"),
        ("integer.tif", RAMP.astype(np.int32), "mode I "),
        ("signed.tif", np.frombuffer(RAMP.tobytes(), np.int32).reshape(10, 20), "mode I "),
        ("float.tif", (RAMP / 65535).astype(np.float32), "mode F "),
    ],
)
def test_an_unknown_range_is_refused_with_file_and_mode(tmp_path, name, array, reason):
    with pytest.raises(UsageError, match=f"{name} cannot be decoded.*{reason}.*which value is white"):
        read_image(saved(tmp_path / name, Image.fromarray(array)))


def test_12_bit_values_in_16_bit_colour_are_refused(tmp_path):
    (tmp_path / "0.png").write_bytes(colour_png(np.stack([RAMP // 16] * 3, axis=2)))
    with pytest.raises(UsageError, match="0.png cannot be decoded.*12 of its 16 bits"):
        read_image(tmp_path / "0.png")


def test_a_black_image_is_black(tmp_path):
    assert not grey(saved(tmp_path / "0.png", Image.fromarray(RAMP * 0))).any()


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "LA", "L", "RGB", "YCbCr"])
def test_other_modes_are_torchvisions(tmp_path, mode):
    path = saved(tmp_path / ("0.tif" if mode in ("CMYK", "YCbCr") else "0.png"), Image.fromarray(NOISE).convert(mode))
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(pil_loader(str(path))))


def test_orientation_is_not_followed_and_of_many_frames_the_first_is_taken(tmp_path):
    exif, image = Image.Exif(), Image.fromarray(NOISE[:10])
    exif[0x0112] = 6
    assert read_image(saved(tmp_path / "0.png", image, exif=exif)).size == (24, 10)
    for name in ("0.gif", "0.tif", "0.webp"):
        options = {"save_all": True, "append_images": [Image.new("RGB", (24, 10))]}
        assert np.asarray(read_image(saved(tmp_path / name, image, **options))).mean() > 100


def damaged(content: bytes, draw: np.random.Generator) -> bytes:
    """A file cut short, with other bytes, with a hole of zeros, or with bytes left out."""
    at, length = int(draw.integers(len(content))), int(draw.integers(1, 60))
    some = bytearray(content)
    for place in draw.integers(0, len(content), 8):
        some[place] = draw.integers(256)
    zeros = content[:at] + bytes(length) + content[at + length :]
    return [content[:at], bytes(some), zeros, content[:at] + content[at + length :]][draw.integers(4)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_refused_in_one_line_or_read_but_never_black(format):
    file, draw, refused = io.BytesIO(), np.random.default_rng(1), 0
    Image.fromarray(NOISE).save(file, format)
    for _ in range(50):
        try:
            assert np.asarray(read_image(io.BytesIO(damaged(file.getvalue(), draw)), "the file")).any()
        except UsageError as error:
            refused += 1
            assert str(error).startswith("the file cannot be decoded") and "\n" not in str(error)
    assert refused


def test_bombs_wrong_chunks_and_missing_rows_are_refused(tmp_path):
    png, tif = io.BytesIO(), io.BytesIO()
    Image.fromarray(NOISE).save(png, "PNG")
    Image.fromarray(NOISE).save(tif, "TIFF")
    at = png.getvalue().index(b"IDAT")
    wrong = png.getvalue()[: at - 4] + (7).to_bytes(4, "big") + png.getvalue()[at:]
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = png.getvalue()[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png.getvalue()[33:]
    higher = tif.getvalue().replace(struct.pack("<HHII", 257, 4, 1, 24), struct.pack("<HHII", 257, 4, 1, 99))
    for name, content, reason in (("w.png", wrong, "broken PNG"), ("b.png", bomb, "bomb"), ("h.tif", higher, "rows")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} cannot be decoded.*{reason}.*replace it"):
            read_image(tmp_path / name)
