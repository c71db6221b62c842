"""Corruptions as recipes and commands write them."""

import pytest

from cakdbench.utils.corruptions import SEVERITIES, Corruption, parse_corruptions
from cakdbench.utils.errors import UsageError


def test_what_means_the_same_is_one_corruption():
    same = ["gaussian_noise:2", "gaussian_noise=0.12", " gaussian_noise=1.2e-1", "gaussian_noise=.120"]
    assert parse_corruptions(same) == [Corruption("gaussian_noise", 0.12)]
    assert parse_corruptions(["shot_noise:1"]) == parse_corruptions(["shot_noise=60"])


def test_they_come_in_the_order_of_the_texts_and_know_their_severity():
    made = parse_corruptions(["shot_noise=30", "gaussian_noise:5", "gaussian_noise=0.08"])
    assert [(str(each), each.severity) for each in made] == [
        ("shot_noise=30", None), ("gaussian_noise=0.38", 5), ("gaussian_noise=0.08", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["gaussian_noise=0.123456789", "shot_noise=1e6", "gaussian_noise=1e-7", *SEVERITIES])
def test_a_name_is_read_as_what_it_names(text):
    for made in parse_corruptions([text]):
        assert parse_corruptions([str(made)]) == [made]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gausian_noise", "did you mean gaussian_noise"),
        ("", "unknown corruption ''"),
        ("gaussian_noise3", "unknown corruption 'gaussian_noise3'"),
        ("shot_noise:6", "severities are 1 to 5"),
        ("shot_noise:", "severities are 1 to 5"),
        ("shot_noise=0", "a strength above 0"),
        ("shot_noise=1e18", "at most 1e\\+09"),
        ("impulse_noise=1.5", "at most 1,"),
        ("impulse_noise=nan", "a strength above 0"),
        ("gaussian_noise=inf", "a strength above 0"),
        ("gaussian_noise=much", "a strength above 0"),
    ],
)
def test_what_names_nothing_is_one_line(text, words):
    with pytest.raises(UsageError, match=words):
        parse_corruptions([text])
