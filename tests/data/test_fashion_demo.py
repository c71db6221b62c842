import gzip
import importlib.resources
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cakdbench.data import sources
from cakdbench.data.datasets import dataset_facts, load_dataset
from cakdbench.data.idx import read_idx
from cakdbench.utils.errors import UsageError
from tests.data.data_lab import write_fashion

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_fashion_demo.py"


def make_demo(folder: Path, output: Path) -> bytes:
    subprocess.run([sys.executable, SCRIPT, folder, "--output", output], check=True)
    return output.read_bytes()


def test_the_demo_set_is_balanced_and_as_large_as_it_says():
    demo, facts = load_dataset("fashion_demo"), dataset_facts("fashion_demo")
    assert (len(demo.train), len(demo.test)) == (facts.n_train, facts.n_test) == (5000, 2000)
    assert np.bincount(demo.train.labels).tolist() == [500] * 10
    assert np.bincount(demo.test.labels).tolist() == [200] * 10
    assert demo.train.image(0).size == (28, 28) and demo.train.image(0).mode == "RGB"
    assert demo.class_names[:2] == ("T-shirt/top", "Trouser") and demo.num_classes == 10


def test_no_image_is_in_both_halves_of_the_demo_set():
    (train, _), (test, _) = sources.fashion_demo(5000, 2000)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_the_demo_statistics_are_those_of_its_pixels():
    (images, _), _ = sources.fashion_demo(5000, 2000)
    facts = dataset_facts("fashion_demo")
    assert abs(images.mean() / 255 - facts.mean[0]) < 0.005
    assert abs(images.std() / 255 - facts.std[0]) < 0.005


def test_the_package_carries_the_data_and_its_licence():
    folder = importlib.resources.files("cakdbench.data")
    notice = folder.joinpath("FASHION_MNIST_LICENSE.txt").read_text()
    assert "Zalando SE" in notice and "MIT License" in notice
    assert len(folder.joinpath("fashion_demo.npz").read_bytes()) <= 5_000_000


def test_the_script_remakes_the_shipped_file_from_the_images_in_it(tmp_path):
    folder = write_fashion(tmp_path / "idx", *sources.fashion_demo(5000, 2000))
    assert make_demo(folder, tmp_path / "again.npz") == sources.EMBEDDED.read_bytes()


def test_the_script_takes_the_first_images_of_each_class(tmp_path):
    draw = np.random.default_rng(0)
    halves = []
    for count in (7000, 3000):
        labels = draw.permutation(np.arange(count) % 10).astype(np.uint8)
        halves.append((draw.integers(0, 256, (count, 2, 2), np.uint8), labels))
    make_demo(write_fashion(tmp_path / "idx", *halves), tmp_path / "demo.npz")
    made = np.load(tmp_path / "demo.npz")
    for split, count, (images, labels) in zip(("train", "test"), (500, 200), halves, strict=True):
        kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
        assert np.array_equal(made[f"{split}_images"], images[kept])
        assert np.array_equal(made[f"{split}_labels"], labels[kept])


def test_the_script_refuses_too_few_images(tmp_path):
    few = np.zeros((20, 2, 2), np.uint8), (np.arange(20) % 10).astype(np.uint8)
    done = subprocess.run(
        [sys.executable, SCRIPT, write_fashion(tmp_path, few, few), "--output", tmp_path / "demo.npz"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "fewer than 500 images" in done.stderr
    assert not (tmp_path / "demo.npz").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b\x08\x00", "cannot be read"),
        (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", mtime=0), "no idx file of unsigned bytes"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05\x00", mtime=0), "holds 1 values"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, reason):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
