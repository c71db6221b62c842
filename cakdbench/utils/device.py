"""Device, precision and processes."""

import platform

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from cakdbench.utils.errors import UsageError


def device_name(device: torch.device) -> str:
    """Return the name that records have of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def make_accelerator(precision: str = "fp32", cpu: bool = False, threads: int = 1) -> Accelerator:
    """Device, precision and processes, as Accelerate finds them.

    Args:
        threads: of each process on a CPU. With one, a result does not depend on the number of cores, bit for bit,
            and a machine that is busy with other things slows it down no more than in proportion.
    """
    torch.set_num_threads(threads)
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}; known: fp32, bf16")
    # Buffers stay local: NormStats averages batch norms, and a method's banks must not be overwritten.
    # A method may leave modules unused in some steps.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu, kwargs_handlers=[ddp])
