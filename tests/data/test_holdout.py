"""Images held out of a training set: which they are, and that nothing else of the data is seen."""

import numpy as np
import pytest

from cakdbench.data.datasets import dataset_facts, forget_datasets, load_dataset
from cakdbench.data.holdout import held_count, held_positions, hold_out, holdout_name, whole_name
from cakdbench.data.splits import from_arrays
from cakdbench.grid.suites import resolve_pairs
from cakdbench.models.zoo import model_info
from cakdbench.registry import get_method, resolve_config
from cakdbench.utils.errors import UsageError

HELD = "fashion_demo:holdout"


def pixels(split):
    return [split.image(index).tobytes() for index in range(len(split))]


def test_the_training_images_are_divided_and_the_test_images_left_out():
    whole, data = load_dataset("fashion_tiny"), load_dataset("fashion_tiny:holdout")
    assert (len(data.train), len(data.test)) == (400, 100)
    labelled = list(zip(pixels(whole.train), whole.train.labels.tolist()))
    divided = [pair for split in (data.train, data.test) for pair in zip(pixels(split), split.labels.tolist())]
    assert sorted(divided) == sorted(labelled)
    assert not {*pixels(data.test)} & {*pixels(whole.test)}
    assert data.whole is whole and data.mean == whole.mean and data.class_names == whole.class_names


def test_every_class_gives_its_share():
    data = load_dataset(HELD)
    assert set(np.bincount(data.test.labels)) == {100} and set(np.bincount(data.train.labels)) == {400}
    uneven = np.repeat([0, 1, 2], [1000, 100, 11])
    assert np.abs(np.bincount(uneven[held_positions(uneven, 222)]) - [199.8, 20, 2.2]).max() < 1


def test_it_is_a_dataset_of_its_own_name_and_fingerprint():
    whole, data = load_dataset("fashion_demo"), load_dataset(HELD)
    assert data.name == HELD == holdout_name("fashion_demo") == holdout_name(HELD) and whole_name(HELD) == whole.name
    assert data.fingerprint not in (whole.fingerprint, load_dataset("fashion_tiny:holdout").fingerprint)
    assert load_dataset(HELD) is data
    forget_datasets()
    assert load_dataset(HELD) is not data and load_dataset(HELD).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["fashion_demo", "fashion_tiny"])
def test_its_facts_are_those_of_what_is_loaded(name):
    facts, data = dataset_facts(holdout_name(name)), load_dataset(holdout_name(name))
    assert (facts.n_train, facts.n_test, facts.num_classes) == (len(data.train), len(data.test), data.num_classes)


def test_as_many_as_there_are_test_images_and_a_fifth_at_most():
    assert [held_count(*sizes) for sizes in ((50_000, 10_000), (1_281_167, 50_000), (5_000, 2_000))] == [
        10_000,
        50_000,
        1_000,
    ]


def test_too_few_images_are_refused():
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    form = {"class_names": ("a", "b"), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(UsageError, match="few has 4 training images: too few"):
        hold_out(from_arrays("few", (images, labels), (images, labels), **form))


def test_an_unknown_dataset_is_told_by_its_own_name():
    with pytest.raises(UsageError, match="dataset 'fashion_dem'.*fashion_demo"):
        load_dataset("fashion_dem:holdout")


def test_recipe_and_settings_are_those_of_the_whole():
    (spec,) = resolve_pairs("swin_t>resnet18@cifar100:holdout")
    assert spec.recipe == resolve_pairs("swin_t>resnet18@cifar100")[0].recipe
    infos = model_info("swin_t", 1000, 224), model_info("resnet18", 1000, 224)
    config = resolve_config(get_method("fofa"), None, *infos, "imagenet1k:holdout")
    assert config.n_q == 144
