"""Compiled steps on a device."""

import pytest

from .lab import OnDevice, farthest


@pytest.mark.parametrize("id", ["kd", "dist", "ofa"])
def test_a_compiled_method_trains_to_the_weights_of_the_plain_one(device, id):
    plain, compiled = (OnDevice([id], device, compile=flag) for flag in (False, True))
    plain.run()
    compiled.run()
    assert compiled.failed == {}
    assert farthest(plain.weights(id), compiled.weights(id)) < 1e-3
