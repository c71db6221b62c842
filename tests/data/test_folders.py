"""Image folders: the classes, order and files of torchvision's ImageFolder, and nothing left out in silence."""

import os
import sys
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from cakdbench.data.datasets import load_dataset
from cakdbench.data.folders import ClassFolders
from cakdbench.utils.errors import UsageError
from tests.data.data_lab import encoded

PLAIN = ("a/0.png", "a/1.png", "b/0.png", "b/1.png")


def write(folder: Path, *names: str, seed: int = 0) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF", ".ppm": "PPM", ".bmp": "BMP"}
        path.write_bytes(encoded(seed + number, kind.get(path.suffix.lower(), "PNG")))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        PLAIN,
        ("c/left/0.png", "c/right/0.png", "a/left/0.png", "a/right/deep/0.png", "a/0.png"),
        ("1/0.png", "2/0.png", "10/0.png", "11/0.png"),
        ("ant/0.png", "Cat/0.png", "bee/0.png", "Ärger/0.png", "_x/0.png"),
        ("train/0.JPEG", "val/0.Png", "images/0.ppm"),
    ],
)
def test_classes_and_order_are_torchvisions(tmp_path, names):
    ours, theirs = ClassFolders(write(tmp_path, *names)), ImageFolder(str(tmp_path))
    assert (ours.classes, ours.samples) == (theirs.classes, theirs.samples) and len(ours.samples) == len(names)


def test_hidden_names_are_left_out_at_any_depth(tmp_path):
    hidden = (".ipynb_checkpoints/0.png", "a/.thumbs/deep/0.png", "b/._0.png", ".DS_Store")
    shown = ClassFolders(write(tmp_path / ".cache", *PLAIN, *hidden))
    assert [os.path.relpath(path, shown.root) for path, _ in shown.samples] == list(PLAIN)


def test_every_type_that_pillow_reads_is_an_image_whatever_its_name_says(tmp_path):
    names = ("a/0.webp", "a/1.TIF", "b/0.bmp", "c/0.gif", "d/0.ppm", "d/without_a_type", "d/2.unknown")
    loaded = ClassFolders(write(tmp_path, *names))
    assert len(loaded.samples) == len(names) and loaded.classes == ["a", "b", "c", "d"]


@pytest.mark.filterwarnings("ignore:files in")
@pytest.mark.parametrize(
    ("names", "texts", "message"),
    [
        (("preview.png",), (), r"preview\.png in .*train outside of the class folders"),
        ((), ("a/0.heic", "b/0.heic", "a/x.npy", "a/notes.txt"), r"2 \.heic, 1 \.txt, 1 \.npy; such as a/0\.heic"),
        ((), ("a/LICENSE",), "1 without a type; such as a/LICENSE"),
        ((), ("d/notes.txt",), "class folders without images: d;"),
        ((), ("d/0.h5",), r"1 \.h5"),
    ],
)
def test_what_may_be_an_image_and_is_not_read_is_refused(tmp_path, names, texts, message):
    folder = write(tmp_path / "train", *PLAIN, *names)
    write(folder, *texts)
    for name in texts:
        (folder / name).write_bytes(b"\x89HDF\r\n\x1a\n" if name.endswith("h5") else b"text")
    with pytest.raises(UsageError, match=message):
        ClassFolders(folder)


def test_notes_beside_images_are_left_out_with_a_word(tmp_path):
    write(tmp_path, *PLAIN)
    for name in ("labels.csv", "a/boxes.txt", "b/Thumbs.db"):
        (tmp_path / name).write_text("text")
    with pytest.warns(UserWarning, match=r"are no images, and left out \(1 \.txt, 1 \.db, 1 \.csv; such as "):
        assert len(ClassFolders(tmp_path).samples) == 4


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", "0.png", "1.png")
    folder = write(tmp_path / "train", *PLAIN)
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    assert len(ClassFolders(folder).samples) == 6
    (folder / "a" / "again").symlink_to(folder / "a")
    with pytest.raises(UsageError, match="are one folder, by a link"):
        ClassFolders(folder)


@pytest.mark.parametrize("name", ["timm:folder/pets", "timm:pets"])
@pytest.mark.parametrize(
    ("val", "message"),
    [
        (("a/0.png",), r"different classes in training and test \(b\)"),
        (("a/0.png", "b/0.png", "x.png"), "x.png in .*val outside of the class folders"),
        ((".hidden/0.png",), "only hidden folders"),
    ],
)
def test_a_test_set_that_does_not_fit_is_refused(tmp_path, name, val, message):
    write(tmp_path / "pets" / "train", *PLAIN)
    write(tmp_path / "pets" / "val", *val)
    with pytest.raises(UsageError, match=message):
        load_dataset(name, tmp_path)


def test_a_class_that_is_empty_in_one_split_is_refused(tmp_path):
    write(tmp_path / "pets" / "train", *PLAIN)
    (write(tmp_path / "pets" / "val", "a/0.png") / "b").mkdir()
    with pytest.raises(UsageError, match="val has class folders without images: b"):
        load_dataset("timm:pets", tmp_path)


def test_test_images_that_were_trained_on_are_told(tmp_path):
    write(tmp_path / "pets" / "train", *PLAIN)
    write(tmp_path / "pets" / "val", *PLAIN[:3])
    write(tmp_path / "pets" / "val", "a/1.png", seed=9)
    with pytest.warns(UserWarning, match="2 test images are training images too, such as a/0.png"):
        load_dataset("timm:pets", tmp_path)


def test_test_images_of_the_content_of_a_training_image_are_told_whatever_their_names(tmp_path):
    write(tmp_path / "pets" / "train", *PLAIN)
    write(tmp_path / "pets" / "val", "a/x.png", "b/y.png", seed=3)  # the first is the last of training
    with pytest.warns(UserWarning, match="1 test images are training images too, such as a/x.png"):
        load_dataset("timm:pets", tmp_path)


def test_of_two_test_sets_the_one_that_is_taken_is_told(tmp_path):
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        write(tmp_path / "pets" / split, "a/1.png", "b/1.png", seed=seed)
    with pytest.warns(UserWarning, match="pets has val and test: val is taken"):
        data = load_dataset("timm:folder/pets", tmp_path)
    assert len(data.test) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo") or sys.platform == "darwin", reason="no such files there")
def test_what_is_no_file_or_has_no_name_in_utf_8_is_refused(tmp_path):
    write(tmp_path, *PLAIN)
    os.mkfifo(tmp_path / "a/pipe")
    with pytest.raises(UsageError, match="1 without a type; such as a/pipe"):
        ClassFolders(tmp_path)
    write(tmp_path / "pets" / "train", *PLAIN)
    write(tmp_path / "pets" / "val", *PLAIN)
    os.rename(tmp_path / "pets/val/a/0.png", os.fsencode(tmp_path / "pets/val/a") + b"/\xe9.png")
    with pytest.raises(UsageError, match=r"udce9.png' has a name that no file can have in UTF-8"):
        load_dataset("timm:pets", tmp_path)


def test_a_link_to_nothing_is_named(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "pets" / split, *PLAIN, seed=len(split))
    (tmp_path / "pets" / "train" / "a" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="a/2.png cannot be read"):
        load_dataset("timm:pets", tmp_path)
