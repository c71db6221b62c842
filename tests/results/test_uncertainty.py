"""What a test set can tell, against simulation and closed forms."""

import numpy as np
import pytest

from cakdbench.results.stats import indistinguishable, resolution, standard_error


def test_one_image_of_two_thousand_is_a_twentieth_of_a_point():
    assert resolution(2000) == 0.05


@pytest.mark.parametrize(("top1", "images"), [(80.0, 2000), (95.0, 10000), (50.0, 500)])
def test_standard_error_and_bound_are_those_of_simulated_test_sets(top1, images):
    rng = np.random.default_rng(0)
    first, second = 100 * rng.binomial(images, top1 / 100, (2, 200_000)) / images
    assert standard_error(top1, images) == pytest.approx(first.std(), rel=0.02)
    exceeded = np.mean(np.abs(first - second) > indistinguishable(top1, images))
    assert exceeded == pytest.approx(0.05, abs=0.005)


def test_the_bound_is_too_wide_rather_than_too_narrow_for_scores_on_the_same_images():
    rng = np.random.default_rng(0)
    shared, own = rng.random((20_000, 1, 200)) < 0.7, rng.random((20_000, 2, 200)) < 0.8
    top1 = 100 * (shared & own).mean(2)
    exceeded = np.mean(np.abs(top1[:, 0] - top1[:, 1]) > indistinguishable(56.0, 200))
    assert exceeded < 0.05


@pytest.mark.parametrize("top1", [0.0, 100.0])
def test_at_the_ends_one_image_remains(top1):
    assert standard_error(top1, 2000) == 0
    assert indistinguishable(top1, 2000) == 0.05
