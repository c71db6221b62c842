"""Device, precision and processes."""

import os
import platform
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from cakdbench.utils.errors import UsageError

PRECISIONS = {"fp32": "no", "bf16": "bf16"}
"""What Accelerate calls them."""


def device_name(device: torch.device) -> str:
    """Return the name that records have of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({platform.machine()})"


NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_status_alloc_failed")
"""What RuntimeErrors say where an allocator of the CPU, of Apple's GPUs or of a CUDA library has no memory left."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error that says that memory is used up."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or isinstance(error, RuntimeError) and any(text in str(error).lower() for text in NO_MEMORY)


def usable_cores() -> int:
    """Return how many cores this process may use; macOS and Windows tell no more than how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus(chosen: Sequence[int] = ()) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each of the GPUs with these numbers; of all, without any.

    Numbers count what this process sees: where CUDA_VISIBLE_DEVICES is "2,3", they are 0 and 1.

    Raises:
        UsageError: there is no such GPU.
    """
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = names if len(names) >= count and names != [""] else [str(number) for number in range(count)]
    for number in chosen:
        if not 0 <= number < count:
            there = f"0 to {count - 1}" if count else "there is none"
            raise UsageError(f"--gpus {number}: no such GPU on this machine ({there})")
    return [names[number] for number in chosen or range(count)]


def make_accelerator(
    precision: str = "fp32", cpu: bool = False, threads: int = 1, gpus: Sequence[int] = ()
) -> Accelerator:
    """Return device, precision and processes, as Accelerate finds them.

    Args:
        threads: of each process on a CPU. With one, a result does not depend on the number of cores, bit for bit,
            and a machine that is busy with other things slows it down no more than in proportion.
        gpus: numbers of GPUs, the first of which this process takes; default: the first there is.
    """
    torch.set_num_threads(threads)
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    # Buffers stay local: NormStats averages batch norms, and a method's banks must not be overwritten.
    # A method may leave modules unused in some steps.
    _forget_other_settings(PRECISIONS[precision], cpu)
    if gpus and not cpu:
        visible_gpus(gpus)
        torch.cuda.set_device(gpus[0])
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=cpu, kwargs_handlers=[ddp])


def _forget_other_settings(mixed_precision: str, cpu: bool) -> None:
    """Let a notebook run with one precision or device after another: Accelerate keeps the first of a process."""
    if not AcceleratorState._shared_state or PartialState().num_processes > 1:
        return
    state = AcceleratorState()
    on_cpu = state.device.type == "cpu"
    other_device = not on_cpu if cpu else on_cpu and torch.cuda.is_available()
    if state.mixed_precision != mixed_precision or other_device:
        AcceleratorState._reset_state(reset_partial_state=True)
