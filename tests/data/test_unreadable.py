"""Images that cannot be read: refused where they are needed, or left out and counted."""

import warnings

import numpy as np
import pytest

from cakdbench.data.datasets import forget_datasets, load_dataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.utils.errors import UsageError
from tests.data.test_folders import write

NAME = "timm:pets"


@pytest.fixture
def pets(tmp_path):
    """Loads two classes of four images each; the names of those that are damaged first."""
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(4)]
    for seed, split in ((0, "train"), (50, "val")):
        write(tmp_path / "pets" / split, *names, seed=seed)

    def load(*broken: str, **options):
        for name in broken:
            path = tmp_path / "pets" / name
            path.write_bytes(path.read_bytes()[:-30])
        forget_datasets()
        return load_dataset(NAME, tmp_path, **options)

    return load


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_refuse_in_one_line_that_names_the_file_with_workers_too(pets, recipe, workers):
    data = pets("train/a/2.png", "val/b/1.png")
    small = recipe(global_batch=4, local_batch=4)
    trained = SampleStream(data, small, 0, workers=workers)
    for stream, name in (
        (trained.epoch(0), "train/a/2.png"),
        (EvalStream(data.test, data, small, workers=workers), "val/b/1.png"),
    ):
        with pytest.raises(UsageError, match=f"{name} cannot be decoded") as caught:
            list(stream)
        assert "\n" not in str(caught.value)


def test_skipping_leaves_out_the_unreadable_and_nothing_else(pets):
    whole = pets(on_bad_image="skip")
    assert whole is pets() or whole.fingerprint == pets().fingerprint and whole.skipped is None
    with pytest.warns(UserWarning, match="unreadable images left out: 2; the first: .*train/a/2.png"):
        rest = pets("train/a/2.png", "val/b/1.png", on_bad_image="skip")
    assert rest.skipped == 2 and rest.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    kept = [position for position in range(8) if position != 2]
    for index, position in enumerate(kept):
        assert np.array_equal(rest.train.image(index), whole.train.image(position))
    assert rest.test.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len({whole.fingerprint, pets().fingerprint, rest.fingerprint}) == 3


def test_a_class_of_which_nothing_is_left_is_refused(pets):
    with pytest.raises(UsageError, match="no image of a can be read: .*val/a/0.png"):
        pets(*(f"val/a/{number}.png" for number in range(4)), on_bad_image="skip")


def test_without_damage_nothing_is_said(pets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pets(on_bad_image="skip").train) == 8
