"""What is known of the test labels of the boards' datasets."""

import numpy as np
import pytest

from cakdbench.data.shipped import SHIPPED, false_labels

IMAGENET = np.repeat(np.arange(1000), 50)


@pytest.mark.parametrize(
    ("labels", "skipped", "possible"),
    [
        (IMAGENET, 0, True),
        (IMAGENET[1:], 0, False),
        (IMAGENET[1:], 1, True),
        (IMAGENET, 1, True),  # what was left out is a training image
        (IMAGENET[2:], 1, False),
        (np.append(IMAGENET[2:], 5), 3, False),
        (np.append(IMAGENET[1:], 1000), 3, False),
        (IMAGENET[:0], 1, False),
    ],
)
def test_labels_lack_no_more_images_than_were_left_out(labels, skipped, possible):
    assert (false_labels("imagenet1k", "f" * 64, labels, skipped) is None) == possible


def test_data_with_the_fingerprint_of_all_images_lack_none():
    labels, whole = np.repeat(np.arange(10), 200)[1:], SHIPPED["fashion_demo"].fingerprint
    assert false_labels("fashion_demo", whole, labels, 1) == "their hash is another"
    assert false_labels("fashion_demo", "f" * 64, labels, 1) is None
