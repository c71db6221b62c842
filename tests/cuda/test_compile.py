"""Compiled steps on a device."""

import pytest

from cakdbench.checks.lab import short_recipe

from .lab import OnDevice, farthest


@pytest.mark.parametrize("id", ["kd", "dist", "ofa"])
def test_a_compiled_method_trains_to_the_weights_of_the_plain_one(device, id):
    first = short_recipe(epochs=1)  # rounding grows from step to step, whoever rounds
    plain, compiled = (OnDevice([id], device, recipe=first, compile=flag) for flag in (False, True))
    plain.run()
    compiled.run()
    assert compiled.failed == {}
    assert farthest(plain.weights(id), compiled.weights(id)) < 1e-3
