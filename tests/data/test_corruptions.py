"""Corruptions by their definitions, and as functions of names alone."""

import numpy as np
import pytest
import torch

from cakdbench.data.corruptions import KINDS, Corruption, parse_corruptions
from cakdbench.utils.errors import UsageError

GREY = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
PLACES = torch.tensor([3, 4])


@pytest.mark.parametrize("strength", [0.05, 0.12])
def test_gaussian_noise_has_its_deviation(strength):
    noisy = Corruption("gaussian_noise", strength)(GREY, PLACES).double() / 255
    assert noisy.mean().item() == pytest.approx(128 / 255, abs=0.003)
    assert noisy.std().item() == pytest.approx(strength, rel=0.03)


@pytest.mark.parametrize("photons", [60, 12])
def test_shot_noise_has_the_variance_of_counted_photons(photons):
    noisy = Corruption("shot_noise", photons)(GREY, PLACES).double() / 255
    assert noisy.var().item() == pytest.approx(128 / 255 / photons, rel=0.07)
    assert (Corruption("shot_noise", photons)(0 * GREY, PLACES) == 0).all()  # no light, no noise


def test_impulse_noise_turns_its_share_black_or_white():
    noisy = Corruption("impulse_noise", 0.09)(GREY, PLACES)
    black, white, kept = ((noisy == value).double().mean().item() for value in (0, 255, 128))
    assert black == pytest.approx(0.045, abs=0.005) and white == pytest.approx(0.045, abs=0.005)
    assert black + white + kept == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_one_noise_whatever_stands_beside_it(kind):
    noise = parse_corruptions([f"{kind}:3"])[0]
    both = noise(GREY, PLACES)
    assert both.dtype == torch.uint8 and torch.equal(noise(GREY[1:], PLACES[1:])[0], both[1])
    assert not torch.equal(both[0], both[1])
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    noise(GREY, PLACES)
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(torch.get_rng_state(), state[1])


def test_severities_grow_and_strengths_may_be_any():
    means = []
    for kind in KINDS:
        severities = parse_corruptions([kind])
        assert [c.severity for c in severities] == [1, 2, 3, 4, 5]
        means = [(c(GREY, PLACES).double() - 128).abs().mean().item() for c in severities]
        assert means == sorted(means)
    assert parse_corruptions(["gaussian_noise=0.1", "gaussian_noise:2", "gaussian_noise:2"]) == [
        Corruption("gaussian_noise", 0.1),
        Corruption("gaussian_noise", 0.12, 2),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gausian_noise", "did you mean gaussian_noise|unknown corruption 'gausian_noise'"),
        ("shot_noise:6", "severities are 1 to 5"),
        ("shot_noise:", "severities are 1 to 5"),
        ("shot_noise=0", "a strength above 0"),
        ("impulse_noise=nan", "a strength above 0"),
        ("gaussian_noise=much", "a strength above 0"),
    ],
)
def test_what_names_nothing_is_one_line(text, words):
    with pytest.raises(UsageError, match=words):
        parse_corruptions([text])
