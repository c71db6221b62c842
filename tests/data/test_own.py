"""Datasets that a TOML file describes: the same images and classes from every source, and no wrong ones in silence."""

import csv
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cakdbench.data import datasets
from cakdbench.data.datasets import load_dataset, register_datasets
from cakdbench.data.statistics import measure
from cakdbench.utils.errors import UsageError

NAMES = ("10", "Cat", "ant", "b")  # by code point
SIZES = {"train": 5, "val": 2}


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(datasets, "_own", {})


@pytest.fixture
def images():
    """Images and names of classes of the splits, sorted as a folder of theirs."""
    draw = np.random.default_rng(0)
    return {
        split: (draw.integers(0, 256, (4 * count, 6, 9, 3), np.uint8), np.repeat(NAMES, count))
        for split, count in SIZES.items()
    }


def folder(place: Path, images) -> str:
    for split, (pictures, names) in images.items():
        for number, (picture, name) in enumerate(zip(pictures, names)):
            path = place / split / name / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return 'source = "folder"\npath = "data"'


def rows_of(place: Path, images):
    folder(place, images)
    return [(path.relative_to(place).as_posix(), path.parent.name, path.parts[-3]) for path in place.rglob("*.png")]


def one_csv(place: Path, images) -> str:
    with (place / "all.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("file", "breed", "split"), *sorted(rows_of(place, images))])
    return 'source = "csv"\npath = "data/all.csv"\ncolumns = {image = "file", label = "breed"}'


def two_csv(place: Path, images) -> str:
    rows = sorted(rows_of(place, images))
    for split in SIZES:
        with (place / f"{split}.csv").open("w", newline="") as file:
            chosen = [(str(place / name), label) for name, label, part in rows if part == split]
            csv.writer(file).writerows([("path", "label"), *chosen])
    return 'source = "csv"\npath = "data"'


def one_npz(place: Path, images) -> str:
    arrays = {f"{split}_images": pictures for split, (pictures, _) in images.items()}
    np.savez(place / "all.npz", **arrays, **{f"{split}_labels": names[:, None] for split, (_, names) in images.items()})
    return 'source = "npz"\npath = "data/all.npz"'


def two_npz(place: Path, images) -> str:
    for split, (pictures, names) in images.items():
        np.savez(place / f"{split}.npz", x=pictures, y=names.astype("S"))
    return 'source = "npz"\npath = "data"\ncolumns = {image = "x", label = "y"}'


def numbers(names) -> np.ndarray:
    return np.array([NAMES.index(name) for name in names])


def tensors(place: Path, images) -> str:
    held = {f"{split}_images": torch.from_numpy(pictures) for split, (pictures, _) in images.items()}
    held |= {f"{split}_labels": torch.from_numpy(numbers(names)) for split, (_, names) in images.items()}
    torch.save(held, place / "all.pt")
    return f'source = "npz"\npath = "data/all.pt"\nclasses = {list(NAMES)}'


def hugging_face(place: Path, images) -> str:
    hf = pytest.importorskip("datasets")
    features = hf.Features(picture=hf.Image(), kind=hf.ClassLabel(names=list(NAMES)))
    splits = {
        split: hf.Dataset.from_dict(
            {"picture": [Image.fromarray(each) for each in pictures], "kind": numbers(names)}, features
        )
        for split, (pictures, names) in images.items()
    }
    hf.DatasetDict(splits).save_to_disk(str(place / "saved"))
    return 'source = "hf"\npath = "data/saved"\ncolumns = {label = "kind"}'


def timm_folder(place: Path, images) -> str:
    folder(place, images)
    return 'source = "timm:folder/data"\npath = "."'


SOURCES = [folder, one_csv, two_csv, one_npz, two_npz, tensors, hugging_face, timm_folder]


def described(place: Path, source: str, *more: str, name: str = "mine") -> Path:
    file = place / "datasets.toml"
    file.write_text("\n".join(["[[datasets]]", f'name = "{name}"', source, *more]))
    register_datasets(file)
    return file


def made(place: Path, images, source, *more: str):
    (place / "data").mkdir(parents=True, exist_ok=True)
    described(place, source(place / "data", images), *more)
    return load_dataset("mine", place)


def pixels(split) -> np.ndarray:
    return np.stack([np.asarray(split.image(index)) for index in range(len(split))])


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_images_and_classes_wherever_it_lies(tmp_path, images, source):
    data = made(tmp_path / "here", images, source)
    assert (data.name, data.class_names, data.num_classes) == ("mine", NAMES, 4)
    for split, (pictures, names) in zip((data.train, data.test), images.values(), strict=True):
        assert (pixels(pickle.loads(pickle.dumps(split))) == pictures).all()
        assert [data.class_names[label] for label in split.labels] == names.tolist()
    if source is not two_csv:  # which has absolute paths
        shutil.move(tmp_path / "here", tmp_path / "there")
        described(tmp_path / "there", (tmp_path / "there/datasets.toml").read_text().partition('"mine"\n')[2])
        assert load_dataset("mine").fingerprint == data.fingerprint


@pytest.mark.parametrize("source", [folder, one_csv, one_npz, tensors, hugging_face])
def test_order_names_statistics_and_pictures_are_in_the_fingerprint(tmp_path, images, source):
    order = list(reversed(NAMES))
    statistics = [
        "statistics = {mean = [0.1, 0.2, 0.3], std = [1, 0.5, 0.25]}",
        'statistics = "mixer_b16_224.goog_in21k_ft_in1k"',
    ]
    variants = [made(tmp_path / "a", images, source, line) for line in ("", *statistics)]
    if source is not tensors:  # whose labels are numbers
        variants.append(made(tmp_path / "a", images, source, f"classes = {order}"))
        assert [variants[-1].class_names[label] for label in variants[-1].test.labels] == images["val"][1].tolist()
    images["train"][0][3] ^= 255
    variants.append(made(tmp_path / "b", images, source))
    assert len({data.fingerprint for data in variants}) == len(variants)
    assert variants[1].std == (1, 0.5, 0.25) and variants[2].mean == (0.5, 0.5, 0.5)


def test_renamed_classes_are_another_dataset_even_where_labels_are_numbers(tmp_path, images):
    first = made(tmp_path, images, tensors)
    described(tmp_path, tensors(tmp_path / "data", images).replace("'ant'", "'emu'"))
    assert load_dataset("mine").fingerprint != first.fingerprint
    described(tmp_path, tensors(tmp_path / "data", images).partition("\nclasses")[0])
    assert load_dataset("mine").class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("source", [folder, one_csv, one_npz, hugging_face])
def test_a_fraction_of_every_class_is_held_out_where_there_is_one_split(tmp_path, images, source):
    del images["val"]
    data = made(tmp_path, images, source, "test_fraction = 0.4")
    assert np.bincount(data.test.labels).tolist() == [2] * 4 and np.bincount(data.train.labels).tolist() == [3] * 4
    both = np.concatenate([pixels(data.train), pixels(data.test)])
    assert sorted(map(bytes, both)) == sorted(map(bytes, images["train"][0]))


def test_a_folder_of_classes_alone_is_split_too(tmp_path, images):
    folder(tmp_path / "all", images)
    described(tmp_path, 'source = "folder"\npath = "all/train"\ntest_fraction = 0.2')
    data = load_dataset("mine")
    assert (data.class_names, len(data.train), len(data.test)) == (NAMES, 16, 4)


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        (folder, ['classes = ["10", "Cat", "ant", "bee"]'], "not those of the data: it lacks b and has bee"),
        (folder, ['classes = ["10", "Cat", "ant", "b", "b"]'], "names twice: b"),
        (folder, ['splits = {test = "holdout"}'], r"no split holdout \(there: train, val\)"),
        (one_csv, ['classes = ["10", "Cat", "ant"]'], "labels that are not among the classes of the entry: b"),
        (one_csv, ["test_fraction = 0.95"], "class 10 has 5 images, too few"),
        (two_csv, ['columns = {label = "breed"}'], "val.csv|train.csv has the columns path, label, and not breed"),
        (one_npz, ['columns = {label = "y"}'], "has the arrays .*train_labels.* and not train_y"),
        (two_npz, ['splits = {train = "training"}'], r"no split training \(there: train, val\)"),
        (hugging_face, ['columns = {image = "kind"}'], "column kind is of no images|has the columns"),
        (tensors, ['path = "x"'], "not valid TOML"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_one_line(tmp_path, images, source, more, message):
    (tmp_path / "data").mkdir()
    text = source(tmp_path / "data", images)
    for line in more:
        key = line.partition(" ")[0]
        text = re.sub(rf"(?m)^{key} = .*\n?", "", text) if key == "columns" else text
    with pytest.raises(UsageError, match=message) as caught:
        described(tmp_path, text, *more)
        load_dataset("mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3, 4], "no training image of class 0: labels that are numbers"),
        ([0, 1, -1, 2], r"without a label \(-1\)"),
        ([0.0, 1.0, 2.0, 3.0], "labels is float64"),
        ([0, 1, 2], "give 4 whole numbers or names"),
        ([0, 0, 10**12, 1], "no training image of class 2"),
    ],
)
def test_labels_that_leave_their_classes_open_are_refused(tmp_path, labels, message):
    np.savez(tmp_path / "train.npz", images=np.zeros((4, 5, 5), np.uint8), labels=labels)
    shutil.copy(tmp_path / "train.npz", tmp_path / "test.npz")
    described(tmp_path, 'source = "npz"\npath = "."')
    with pytest.raises(UsageError, match=message):
        load_dataset("mine")


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 5), (4, 5, 5, 4)])
def test_arrays_of_other_shapes_or_types_are_refused(tmp_path, shape):
    np.savez(tmp_path / "a.npz", images=np.zeros(shape, np.uint8), labels=np.arange(4) % 2)
    described(tmp_path, 'source = "npz"\npath = "a.npz"\ntest_fraction = 0.5')
    with pytest.raises(UsageError, match=re.escape(f"images is uint8 {shape}")):
        load_dataset("mine")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_damaged_archives_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    described(tmp_path, f'source = "npz"\npath = "{name}"')
    with pytest.raises(UsageError, match=f"{name} cannot be read as an .npz"):
        load_dataset("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "cifar10"\nsource = "folder"\npath = "."', "cifar10 comes with cakdbench"),
        ('name = "a>b"\nsource = "folder"\npath = "."', r"datasets\[1\]\.name"),
        ('name = "a"\nsource = "foldr"\npath = "."', r"datasets\[1\]\.source"),
        ('name = "a"\nsource = "folder"', "source folder needs a path"),
        ('name = "a"\nsource = "folder"\npath = "."\nstatistics = {mean = [124, 116, 104], std = [1, 1, 1]}', "mean"),
        ('name = "a"\nsource = "folder"\npath = "."\nstatistics = "no_such.tag"', "unknown timm weights 'no_such.tag'"),
        ('name = "a"\nsource = "folder"\npath = "."\nclass = ["x"]', "unknown key"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path, text, message):
    file = tmp_path / "datasets.toml"
    file.write_text(f"[[datasets]]\n{text}")
    with pytest.raises(UsageError, match=message) as caught:
        register_datasets(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_an_unknown_dataset_names_the_ways_to_ones_own(tmp_path):
    with pytest.raises(UsageError, match="unknown dataset 'mine'.*timm:folder/NAME.*--datasets FILE"):
        load_dataset("mine", tmp_path)


def test_pictures_in_both_splits_of_a_csv_are_told(tmp_path, images):
    (tmp_path / "data").mkdir()
    text = one_csv(tmp_path / "data", images)
    with (tmp_path / "data/all.csv").open("a") as file:
        file.write("train/ant/010.png,ant,val\n")
    described(tmp_path, text)
    with pytest.warns(UserWarning, match="mine: 1 test images are training images too, such as train/ant/010.png"):
        load_dataset("mine")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,label\na.png,x\n./a.png,y\n", "all.csv says that .*a.png is x and y"),
        ("path,label,label\na.png,x,y\n", "two columns label"),
        ("path,label\n", "all.csv has no rows"),
        ("path,label,split\na.png,x,train\na\0.png,x,val\n", r"a\\x00.png' has a name that no file can have"),
    ],
)
def test_a_csv_that_contradicts_itself_is_refused(tmp_path, rows, message):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "all.csv").write_text(rows)
    described(tmp_path, 'source = "csv"\npath = "all.csv"')
    with pytest.raises(UsageError, match=message):
        load_dataset("mine")


def test_rows_given_twice_and_splits_left_out_are_told(tmp_path, images):
    (tmp_path / "data").mkdir()
    text = one_csv(tmp_path / "data", images)
    with (tmp_path / "data/all.csv").open("a") as file:
        file.write("train/ant/010.png,ant,train\ntrain/ant/011.png,ant,more\nval/ant/004.png,ant,\n")
    described(tmp_path, text)
    with pytest.warns(UserWarning) as told:
        load_dataset("mine")
    first, second = (str(warning.message) for warning in told)
    assert first.startswith("all.csv has 1 images more than once, such as ") and first.endswith("010.png")
    assert second == "mine: not used of all.csv: more, rows of no split"


def test_whole_numbers_with_a_decimal_point_count_the_classes(tmp_path):
    labels = [f"{number}.0" for number in range(12)]
    for split in SIZES:
        rows = [(f"{split}{label}.png", label) for label in labels]
        for number, (name, _) in enumerate(rows):
            Image.new("L", (4, 4), number + 20 * len(split)).save(tmp_path / name)
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "\n".join(map(",".join, rows)))
    described(tmp_path, 'source = "csv"\npath = "."')
    data = load_dataset("mine")
    assert data.class_names == tuple(map(str, range(12))) and data.test.labels.tolist() == list(range(12))


def test_equal_arrays_in_both_splits_are_told(tmp_path, images):
    images["val"][0][3] = images["train"][0][7]
    with pytest.warns(UserWarning, match="mine: 1 test images are training images too"):
        made(tmp_path, images, one_npz)


def test_arrays_without_test_images_are_refused(tmp_path, images):
    images["val"] = images["val"][0][:0], images["val"][1][:0]
    with pytest.raises(UsageError, match="there is no test image"):
        made(tmp_path, images, one_npz)


@pytest.mark.parametrize(
    ("name", "held"),
    [("a.npz", None), ("a.pt", {"images": torch.ones(2, dtype=torch.bfloat16)}), ("a.pt", {0: torch.ones(2)})],
)
def test_other_contents_of_archives_are_one_line(tmp_path, name, held):
    if held is None:
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.zeros((4, 5, 5), np.uint8))
    else:
        torch.save(held, tmp_path / name)
    described(tmp_path, f'source = "npz"\npath = "{name}"')
    with pytest.raises(UsageError, match=f"{name} (cannot be read as|has the arrays 0, and not images)") as caught:
        load_dataset("mine")
    assert "\n" not in str(caught.value)


def saved(place: Path, label, kinds) -> None:
    hf = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((4, 4, 3), number, np.uint8)) for number in range(8)]
    features = hf.Features(image=hf.Image(), label=kinds(hf))
    rows = {"image": pictures, "label": [label(number) for number in range(8)]}
    hf.Dataset.from_dict(rows, features).save_to_disk(str(place / "saved"))


HF = 'source = "hf"\npath = "saved"\ntest_fraction = 0.5'


def test_several_labels_an_image_are_no_class(tmp_path):
    saved(tmp_path, lambda number: [number % 2], lambda hf: [hf.Value("int64")])
    described(tmp_path, HF)
    with pytest.raises(UsageError, match="column label has several labels per image"):
        load_dataset("mine")


def test_a_row_without_an_image_is_one_that_cannot_be_read(tmp_path):
    hf = pytest.importorskip("datasets")
    pictures = [None] + [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(7)]
    features = hf.Features(image=hf.Image(), label=hf.Value("int64"))
    rows = hf.Dataset.from_dict({"image": pictures, "label": [0, 1] * 4}, features)
    rows.save_to_disk(str(tmp_path / "saved"))
    described(tmp_path, HF)
    data = load_dataset("mine", on_bad_image="skip")
    assert (len(data.train) + len(data.test), data.skipped) == (7, 1)


def test_of_many_encoded_images_all_sizes_are_in_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr("cakdbench.data.splits.HASHED", 2)
    monkeypatch.setattr("cakdbench.data.saved.HASHED", 2)
    hf = pytest.importorskip("datasets")
    pictures, found = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(16)], set()
    for changed in (None, *range(16)):
        altered = [Image.new("RGB", (90, 90)) if number == changed else each for number, each in enumerate(pictures)]
        features = hf.Features(image=hf.Image(), label=hf.Value("int64"))
        rows = hf.Dataset.from_dict({"image": altered, "label": [0, 1] * 8}, features)
        rows.save_to_disk(str(tmp_path / f"s{changed}"))
        described(tmp_path, HF.replace("saved", f"s{changed}"))
        found.add(load_dataset("mine").fingerprint)
    assert len(found) == 17


def test_a_damaged_folder_of_hugging_face_is_one_line(tmp_path):
    saved(tmp_path, lambda number: number % 2, lambda hf: hf.Value("int64"))
    (tmp_path / "saved/state.json").write_text("{}")
    described(tmp_path, HF)
    with pytest.raises(UsageError, match="saved is nothing that save_to_disk of datasets wrote"):
        load_dataset("mine")


@pytest.mark.parametrize("source", [folder, one_npz])
def test_measured_statistics_are_numpys_over_all_training_pixels(tmp_path, images, source):
    measured = measure(made(tmp_path, images, source).train)
    values = images["train"][0].reshape(-1, 3) / 255
    assert measured.mean == pytest.approx(values.mean(0).tolist(), abs=1e-12)
    assert measured.std == pytest.approx(values.std(0).tolist(), abs=1e-12)


def test_measured_statistics_weigh_pixels_not_images(tmp_path):
    for name, side, value in (("a/0.png", 4, 0), ("b/0.png", 2, 255)):
        for split in ("train", "val"):
            path = tmp_path / "x" / split / name
            path.parent.mkdir(parents=True)
            Image.new("L", (side, side), value).save(path)
    measured = measure(load_dataset("timm:folder/x", tmp_path).train)
    assert measured.mean == pytest.approx((0.2,) * 3) and measured.std == pytest.approx((0.4,) * 3)
    with pytest.raises(UsageError, match="one value only"):
        measure(made(tmp_path, {s: (np.zeros((4, 2, 2, 3), np.uint8), np.array(NAMES)) for s in SIZES}, one_npz).train)
