"""Tokens and maps convert exactly both ways."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cakdbench.models.staged import Layout, to_map, to_tokens

side = st.integers(1, 6)


@given(side, side, st.integers(1, 5), st.integers(0, 3))
def test_tokens_survive_the_way_through_a_map(height, width, channels, prefix):
    layout = Layout(channels, (height, width), True, prefix)
    x = torch.randn(2, *layout.shape)
    as_map = layout.to_map(x)
    assert as_map.shape == (2, channels, height, width)
    assert torch.equal(layout.to_tokens(as_map, layout.prefix_of(x)), x)
    assert torch.equal(layout.to_tokens(as_map), x[:, prefix:])


@given(side, side, st.integers(1, 5))
def test_maps_survive_the_way_through_tokens(height, width, channels):
    layout = Layout(channels, (height, width), False)
    x = torch.randn(2, *layout.shape)
    assert torch.equal(layout.to_map(x), x)
    assert torch.equal(to_map(layout.to_tokens(x), layout.grid), x)
    assert layout.prefix_of(x).shape == (2, 0, channels)


def test_tokens_are_row_major():
    x = torch.arange(6).view(1, 1, 2, 3)
    assert to_tokens(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert to_map(to_tokens(x), (2, 3))[0, 0, 1].tolist() == [3, 4, 5]


def test_tokens_pass_unchanged_where_tokens_are_wanted():
    x = torch.randn(2, 4, 5)
    assert to_tokens(x) is x
