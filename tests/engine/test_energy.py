"""Energy from a counter of joules."""

import time

import pytest
import torch

from cakdbench.engine.energy import PowerMeter, energy_counter


def test_energy_is_mean_power_times_the_seconds_of_the_work():
    start = time.monotonic()
    meter = PowerMeter(lambda: 5000.0 + 300.0 * (time.monotonic() - start))
    time.sleep(0.05)
    assert meter.energy_wh(3600) == pytest.approx(300, rel=0.05)
    assert meter.energy_wh(0.0) == 0


def test_a_device_that_does_not_report_energy_has_none():
    assert PowerMeter(energy_counter(torch.device("cpu"))).energy_wh(10) is None
    readings = iter([100.0, None])
    assert PowerMeter(lambda: next(readings)).energy_wh(10) is None
