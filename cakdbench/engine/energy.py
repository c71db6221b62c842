"""Power of a GPU from its own energy counter (NVML), where the driver and the device have one."""

import time
from collections.abc import Callable

import torch


class PowerMeter:
    """Mean power of a device since the meter was made.

    Args:
        joules: reads what the device has used so far, None if it does not report it; see `energy_counter`.
    """

    def __init__(self, joules: Callable[[], float | None]):
        self._joules = joules
        self._start = joules(), time.monotonic()

    def energy_wh(self, seconds: float) -> float | None:
        """Return the energy in Wh that work of so many seconds took at the mean power; None if it is not known."""
        joules, passed = self._joules(), time.monotonic() - self._start[1]
        if joules is None or self._start[0] is None or passed <= 0:
            return None
        return (joules - self._start[0]) / passed * seconds / 3600


def energy_counter(device: torch.device) -> Callable[[], float | None]:
    """Return a reader of the joules a GPU has used since its driver was loaded.

    It gives None if they are unknown, as without the extra `[energy]`.
    """
    if device.type != "cuda":
        return lambda: None
    try:
        import pynvml
    except ImportError:
        return lambda: None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return lambda: None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
