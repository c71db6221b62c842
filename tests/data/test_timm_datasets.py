import gzip

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from cakdbench.data.datasets import dataset_facts, load_dataset
from cakdbench.data.stream import SampleStream
from cakdbench.utils.errors import CakdError, UsageError
from tests.data.data_lab import encoded, grey_halves, image_tree, write_fashion


def folder_set(root, test_name="val", test_classes=("cat", "dog")):
    image_tree(root / "pets" / "train", ["cat", "dog"], per_class=3)
    image_tree(root / "pets" / test_name, list(test_classes))
    return root


@pytest.mark.parametrize("name", ["timm:folder/pets", "timm:pets"])
@pytest.mark.parametrize("test_name", ["val", "validation", "test"])
def test_folders_with_a_split_each(tmp_path, name, test_name):
    loaded = load_dataset(name, folder_set(tmp_path, test_name))
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and loaded.test.labels.tolist() == [0, 0, 1, 1]
    assert loaded.class_names == ("cat", "dog") and loaded.train.image(0).size == (8, 8)
    facts = dataset_facts(name, tmp_path)
    assert (facts.num_classes, facts.n_train, facts.n_test) == (2, 6, 4)


def test_a_missing_split_is_an_error_and_not_the_parent_folder(tmp_path):
    image_tree(tmp_path / "pets" / "train", ["cat", "dog"])
    with pytest.raises(UsageError, match="timm:pets .*needs a folder validation or val .*one folder per class"):
        load_dataset("timm:pets", tmp_path)


def test_torchvisions_image_folder_is_a_folder_too(tmp_path):
    with pytest.raises(UsageError, match="needs a folder train"):
        load_dataset("timm:torch/image_folder", tmp_path)


def test_splits_of_different_classes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="timm:pets has different classes in training and test"):
        load_dataset("timm:pets", folder_set(tmp_path, test_classes=("dog",)))


@pytest.mark.parametrize("name", ["timm:tfds/mnist", "timm:wds/x", "timm:hfids/x/y"])
def test_streamed_datasets_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=f"{name} is a stream"):
        load_dataset(name, tmp_path)


def test_torchvision_datasets_by_timms_name(tmp_path):
    folder = write_fashion(tmp_path / "packed", *grey_halves())
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in folder.iterdir():
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    loaded = load_dataset("timm:torch/fashion_mnist", tmp_path, download=False)
    images, labels = grey_halves()[0]
    assert loaded.class_names == tuple(FashionMNIST.classes)
    assert np.array_equal(loaded.train.labels, labels)
    assert np.array_equal(np.asarray(loaded.train.image(4))[..., 0], images[4])


def test_an_unknown_torchvision_dataset_is_refused(tmp_path):
    with pytest.raises(UsageError, match="timm cannot open timm:torch/nothing below .*nothing"):
        load_dataset("timm:torch/nothing", tmp_path)


def inaturalist(root, train_seed=0):
    """Neither in memory nor a list of files and labels: images and labels come sample by sample."""
    for version, seed in (("2021_train", train_seed), ("2021_valid", 9)):
        for number, name in enumerate(["00000_a_b_c_d_e_f_g", "00001_a_b_c_d_e_f_h"]):
            folder = root / version / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(encoded(seed + number))
    return root


def test_datasets_that_only_give_samples(tmp_path, recipe):
    loaded = load_dataset("timm:torch/inaturalist", inaturalist(tmp_path), download=False)
    assert loaded.train.labels.tolist() == loaded.test.labels.tolist() == [0, 1]
    assert loaded.num_classes == 2 and loaded.train.image(1).mode == "RGB"
    stream = SampleStream(loaded, recipe(global_batch=2, local_batch=2), 0, workers=1)
    assert len(list(stream.epoch(0))) == 1


def test_their_fingerprint_covers_pixels(tmp_path):
    roots = [inaturalist(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 5))]
    a, b, c = (load_dataset("timm:torch/inaturalist", root, download=False).fingerprint for root in roots)
    assert a == b != c


def test_an_unreadable_image_is_not_replaced_by_another(tmp_path):
    loaded = load_dataset("timm:pets", folder_set(tmp_path))
    (tmp_path / "pets" / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(CakdError, match="cat/1.png cannot be decoded"):
        loaded.train.image(1)
