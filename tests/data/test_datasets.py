import functools
import gzip
import hashlib
import pickle
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from cakdbench.data.datasets import check_dataset, dataset_facts, dataset_names, load_dataset
from cakdbench.data.splits import content_hash, from_arrays, from_files
from cakdbench.utils.errors import UsageError
from tests.data.data_lab import encoded, grey_halves, image_tree, random_arrays, write_fashion

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def cifar_files(root: Path, kind, monkeypatch, classes: int) -> dict:
    """A small CIFAR in the layout of the real one, torchvision's checksums set to those of its files."""
    folder, arrays = root / kind.base_folder, {}
    folder.mkdir(parents=True)
    label_key, names_key = ("fine_labels", "fine_label_names") if kind is CIFAR100 else ("labels", "label_names")

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for which in ("train_list", "test_list"):
        pins = []
        for number, (name, _) in enumerate(getattr(kind, which)):
            images, labels = random_arrays(20, 32, classes, seed=number)
            flat = images.transpose(0, 3, 1, 2).reshape(20, -1)
            pins.append([name, write(name, {"data": flat, label_key: labels.tolist()})])
            arrays[name] = images
        monkeypatch.setattr(kind, which, pins)
    names = {names_key: [f"class {number}" for number in range(classes)]}
    meta = {"filename": kind.meta["filename"], "key": names_key, "md5": write(kind.meta["filename"], names)}
    monkeypatch.setattr(kind, "meta", meta)
    return arrays


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address under which a web server gives its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_facts_need_no_files(monkeypatch):
    monkeypatch.setenv("CAKDBENCH_DATA", "/nowhere")
    sizes = {name: (f := dataset_facts(name)) and (f.num_classes, f.n_train, f.n_test) for name in dataset_names()}
    assert sizes == {
        "fashion_demo": (10, 5_000, 2_000),
        "fashion_tiny": (10, 500, 200),
        "fashion_mnist": (10, 60_000, 10_000),
        "cifar10": (10, 50_000, 10_000),
        "cifar100": (100, 50_000, 10_000),
        "imagenet1k": (1000, 1_281_167, 50_000),
    }
    assert dataset_facts("cifar100").mean == (0.5071, 0.4865, 0.4409)
    assert dataset_facts("cifar100").std == (0.2673, 0.2564, 0.2762)


@pytest.mark.parametrize("ask", [dataset_facts, load_dataset])
def test_unknown_names_get_the_nearest(ask):
    with pytest.raises(UsageError, match="unknown dataset 'cifar_100'; did you mean cifar100"):
        ask("cifar_100")


@pytest.mark.parametrize("place", ["folder//data/me/pets", "/data/me/pets", "folder/~/pets", "folder/../me/pets"])
def test_a_place_on_this_machine_is_no_name(place):
    with pytest.raises(UsageError, match="no place on this machine in it: give timm:folder/pets and its folder with"):
        check_dataset(f"timm:{place}")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (
            "fashion_mnist",
            ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "FashionMNIST/raw", "fashion-mnist"],
        ),
        (
            "cifar10",
            ["cifar-10-batches-py", "data_batch_1", "test_batch", "batches.meta", "cifar-10-python.tar.gz"],
        ),
        ("cifar100", ["cifar-100-python", "train, test and meta", "cifar-100-python.tar.gz"]),
        ("imagenet1k", ["imagenet1k/train/<wnid>", "imagenet1k/val/<wnid>", "ILSVRC2012_val"]),
    ],
)
def test_missing_data_says_which_files_belong_where(tmp_path, monkeypatch, name, files):
    monkeypatch.setenv("CAKDBENCH_DATA", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        load_dataset(name, download=False)
    for part in [*files, str(tmp_path), "--data-dir", "CAKDBENCH_DATA"]:
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_argument_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CAKDBENCH_DATA", str(tmp_path / "environment"))
    with pytest.raises(UsageError, match="argument/cifar-100-python"):
        load_dataset("cifar100", tmp_path / "argument", download=False)


@pytest.mark.filterwarnings("ignore:fashion_mnist in")
def test_fashion_mnist_is_read_from_every_layout_alike(tmp_path):
    halves = grey_halves()
    debian = write_fashion(tmp_path / "a" / "fashion-mnist", *halves)
    packed = tmp_path / "b" / "FashionMNIST" / "raw"
    shutil.copytree(debian, packed)
    unpacked = tmp_path / "c" / "FashionMNIST" / "raw"
    unpacked.mkdir(parents=True)
    for file in debian.iterdir():
        (unpacked / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    loaded = [load_dataset("fashion_mnist", tmp_path / part, download=False) for part in "abc"]
    assert len({each.fingerprint for each in loaded}) == 1
    for split, (images, labels) in zip((loaded[0].train, loaded[0].test), halves, strict=True):
        assert np.array_equal(split.labels, labels) and split.labels.dtype == np.int64
        assert np.array_equal(np.asarray(split.image(7)), np.repeat(images[7][..., None], 3, axis=2))


def test_a_dataset_of_another_size_than_the_original_is_remarked_on(tmp_path):
    write_fashion(tmp_path / "fashion-mnist", *grey_halves())
    with pytest.warns(UserWarning, match="30 training and 20 test images, the original 60000 and 10000"):
        load_dataset("fashion_mnist", tmp_path)


def test_labels_and_images_must_be_as_many(tmp_path):
    (images, labels), test = grey_halves()
    write_fashion(tmp_path / "fashion-mnist", (images, labels[:-1]), test)
    with pytest.raises(UsageError, match="30 train images but 29 labels"):
        load_dataset("fashion_mnist", tmp_path)


@pytest.mark.filterwarnings("ignore:fashion_mnist in")
def test_fashion_mnist_is_downloaded_where_it_is_missing(tmp_path, monkeypatch, served):
    folder, address = served
    write_fashion(folder, *grey_halves())
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    monkeypatch.setattr(FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(FashionMNIST, "resources", [(name, sums[name]) for name, _ in FashionMNIST.resources])
    assert len(load_dataset("fashion_mnist", tmp_path / "new").train) == 30
    assert (tmp_path / "new" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").is_file()


@pytest.mark.filterwarnings("ignore:cifar")
@pytest.mark.parametrize(("name", "kind", "classes"), [("cifar10", CIFAR10, 10), ("cifar100", CIFAR100, 100)])
def test_cifar_is_read_from_torchvisions_layout(tmp_path, monkeypatch, name, kind, classes):
    arrays = cifar_files(tmp_path, kind, monkeypatch, classes)
    loaded = load_dataset(name, tmp_path, download=False)
    first, last = kind.train_list[0][0], kind.train_list[-1][0]
    assert len(loaded.train) == 20 * len(kind.train_list) and len(loaded.test) == 20
    assert np.array_equal(np.asarray(loaded.train.image(2)), arrays[first][2])
    assert np.array_equal(np.asarray(loaded.train.image(len(loaded.train) - 1)), arrays[last][19])
    assert np.array_equal(np.asarray(loaded.test.image(3)), arrays[kind.test_list[0][0]][3])
    assert loaded.class_names[3] == "class 3" and loaded.num_classes == classes


def test_damaged_cifar_files_are_told_from_missing_ones(tmp_path, monkeypatch):
    cifar_files(tmp_path, CIFAR100, monkeypatch, 100)
    with (tmp_path / "cifar-100-python" / "train").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UsageError, match="cifar100 is damaged or incomplete .* in .*cifar-100-python"):
        load_dataset("cifar100", tmp_path, download=False)


@pytest.fixture
def packed_cifar(served, monkeypatch) -> Path:
    """The archive that torchvision downloads CIFAR-100 from."""
    folder, address = served
    cifar_files(folder, CIFAR100, monkeypatch, 100)
    archive = folder / CIFAR100.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder / CIFAR100.base_folder, CIFAR100.base_folder)
    monkeypatch.setattr(CIFAR100, "url", address + archive.name)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.mark.filterwarnings("ignore:cifar")
def test_cifar_is_downloaded_where_it_is_missing(tmp_path, packed_cifar):
    assert len(load_dataset("cifar100", tmp_path / "new").train) == 20
    with pytest.raises(UsageError):
        load_dataset("cifar100", tmp_path / "other", download=False)


def test_a_failed_download_says_why_and_which_files_belong_where(tmp_path, packed_cifar):
    packed_cifar.unlink()
    with pytest.raises(UsageError, match="cifar100 is missing in .*404.*train, test and meta"):
        load_dataset("cifar100", tmp_path / "new")


@pytest.mark.filterwarnings("ignore:imagenet1k in")
def test_imagenet_is_read_from_class_folders(tmp_path):
    wnids = [f"n{number:08d}" for number in range(1000)]
    for split, per_class in (("train", 2), ("val", 1)):
        image_tree(tmp_path / "imagenet1k" / split, wnids, per_class)
    loaded = load_dataset("imagenet1k", tmp_path)
    assert (len(loaded.train), len(loaded.test), loaded.num_classes) == (2000, 1000, 1000)
    assert loaded.test.labels.tolist() == list(range(1000)) and loaded.class_names[7] == wnids[7]
    assert loaded.train.image(1999).size == (8, 8)


def test_a_subset_of_imagenet_is_not_imagenet(tmp_path):
    for split in ("train", "val"):
        image_tree(tmp_path / "imagenet1k" / split, ["n01440764", "n01443537"])
    with pytest.raises(UsageError, match="1000 class folders.*timm:folder/imagenet1k"):
        load_dataset("imagenet1k", tmp_path)
    assert load_dataset("timm:folder/imagenet1k", tmp_path).num_classes == 2


def test_validation_images_without_class_folders_are_refused(tmp_path):
    image_tree(tmp_path / "imagenet1k" / "train", ["n01440764"])
    (tmp_path / "imagenet1k" / "val").mkdir()
    (tmp_path / "imagenet1k" / "val" / "ILSVRC2012_val_00000001.png").write_bytes(encoded())
    with pytest.raises(UsageError, match="imagenet1k is not in .*val/<wnid>"):
        load_dataset("imagenet1k", tmp_path)


def fingerprint(train, test, mean=(0.5,) * 3):
    return from_arrays("x", train, test, class_names=tuple("abcd"), mean=mean, std=(0.5,) * 3).fingerprint


def test_one_pixel_label_or_statistic_changes_the_fingerprint():
    def halves():
        return random_arrays(20), random_arrays(10, seed=1)

    prints = [fingerprint(*halves()), fingerprint(*halves(), mean=(0.5, 0.5, 0.4))]
    for half in (0, 1):
        changed = halves()
        changed[half][0][3, 5, 5, 0] ^= 1
        relabelled = halves()
        relabelled[half][1][3] = 0
        prints += [fingerprint(*changed), fingerprint(*relabelled)]
    assert len(set(prints)) == len(prints) == 6
    assert fingerprint(*halves()) == prints[0]


def test_the_fingerprint_of_files_covers_names_labels_and_pixels_but_not_the_folder(tmp_path):
    def of(folder, names=("a/0.png", "b/0.png"), labels=(0, 1), test=("a/9.png",), seed=0):
        root = tmp_path / folder
        for name in [f"train/{name}" for name in names] + [f"val/{name}" for name in test]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(encoded(seed + len(name), "BMP"))  # of one size, whatever the pixels
        train = [(f"{root}/train/{name}", label) for name, label in zip(names, labels, strict=True)]
        val = [(f"{root}/val/{name}", 0) for name in test]
        return from_files("x", (root / "train", train), (root / "val", val), class_names=("a", "b"), **HALF).fingerprint

    assert of("here") == of("there")
    others = [
        of("x", names=("a/0.png", "b/1.png")),
        of("x", labels=(0, 0)),
        of("x", test=("a/8.png",)),
        of("x", seed=1),
    ]
    moved = of("x", names=("a/0.png",), labels=(0,), test=("b/0.png", "a/9.png"))
    assert len({of("x"), moved, *others}) == 6


def test_of_many_files_the_fingerprint_hashes_a_sample_and_content_hash_all(tmp_path, monkeypatch):
    monkeypatch.setattr("cakdbench.data.splits.HASHED", 2)
    for path in [tmp_path / split / "a" / f"{n}.png" for split in ("train", "val") for n in range(8)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded())
    halves = [
        (tmp_path / split, [(f"{tmp_path}/{split}/a/{n}.png", 0) for n in range(8)]) for split in ("train", "val")
    ]

    def after(number: int, content: bytes):
        path = tmp_path / "train" / "a" / f"{number}.png"
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="[78] test images are training images too, such as a/"):
            data = from_files("x", *halves, class_names=("a",), **HALF)
        hashes = data.fingerprint, content_hash(data)
        path.write_bytes(encoded())
        return hashes

    before = after(0, encoded())
    repainted = [after(number, encoded()[:-1] + b"x") for number in range(8)]
    assert sum(fingerprint != before[0] for fingerprint, _ in repainted) == 2
    assert len({before[1], *(content for _, content in repainted)}) == 9
    assert all(after(number, encoded() + b"x")[0] != before[0] for number in range(8))


def test_the_same_object_is_given_again(tmp_path):
    assert load_dataset("fashion_demo") is load_dataset("fashion_demo", tmp_path, download=False)
