"""Corruptions by their definitions, and as functions of names alone."""

import numpy as np
import pytest
import torch

from cakdbench.data.corruptions import NOISES, corrupt
from cakdbench.utils.corruptions import MOST, SEVERITIES, Corruption, parse_corruptions

GREY = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
PLACES = torch.tensor([3, 4])
DRAWN = {
    "gaussian_noise:1": 3145785,
    "gaussian_noise=0.1": 3147089,
    "shot_noise=30": 3144971,
    "impulse_noise:5": 3128478,
}
"""The sum of all values of GREY under noises, as they were first drawn."""


@pytest.mark.parametrize("strength", [0.05, 0.12])
def test_gaussian_noise_has_its_deviation(strength):
    noisy = corrupt(Corruption("gaussian_noise", strength), GREY, PLACES).double() / 255
    assert noisy.mean().item() == pytest.approx(128 / 255, abs=0.003)
    assert noisy.std().item() == pytest.approx(strength, rel=0.03)


@pytest.mark.parametrize("photons", [60, 12])
def test_shot_noise_has_the_variance_of_counted_photons(photons):
    noise = Corruption("shot_noise", photons)
    noisy = corrupt(noise, GREY, PLACES).double() / 255
    assert noisy.var().item() == pytest.approx(128 / 255 / photons, rel=0.07)
    assert (corrupt(noise, 0 * GREY, PLACES) == 0).all()  # no light, no noise


def test_impulse_noise_turns_its_share_black_or_white():
    noisy = corrupt(Corruption("impulse_noise", 0.09), GREY, PLACES)
    black, white, kept = ((noisy == value).double().mean().item() for value in (0, 255, 128))
    assert black == pytest.approx(0.045, abs=0.005) and white == pytest.approx(0.045, abs=0.005)
    assert black + white + kept == 1


@pytest.mark.parametrize("kind", NOISES)
def test_an_image_has_one_noise_whatever_stands_beside_it(kind):
    noise = parse_corruptions([f"{kind}:3"])[0]
    both = corrupt(noise, GREY, PLACES)
    assert both.dtype == torch.uint8 and torch.equal(corrupt(noise, GREY[1:], PLACES[1:])[0], both[1])
    assert not torch.equal(both[0], both[1])
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    corrupt(noise, GREY, PLACES)
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(torch.get_rng_state(), state[1])


@pytest.mark.parametrize("kind", NOISES)
def test_severities_grow_and_the_largest_strength_can_be_drawn(kind):
    severities = parse_corruptions([kind])
    assert [c.severity for c in severities] == [1, 2, 3, 4, 5] and SEVERITIES.keys() == MOST.keys() == NOISES.keys()
    means = [(corrupt(c, GREY, PLACES).double() - 128).abs().mean().item() for c in severities]
    assert means == sorted(means) and len(set(means)) == 5
    assert corrupt(Corruption(kind, MOST[kind]), GREY, PLACES).shape == GREY.shape


def test_the_noise_of_a_strength_is_what_it_was():
    """Accuracies under a noise can be compared as long as its draws stay."""
    sums = {name: int(corrupt(parse_corruptions([name])[0], GREY, PLACES).long().sum()) for name in DRAWN}
    assert sums == DRAWN
