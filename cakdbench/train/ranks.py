"""Several processes of one run: what becomes of an error that one of them meets, or all."""

import itertools
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator

from cakdbench.utils.device import is_out_of_memory
from cakdbench.utils.errors import CakdError

AGREE_SECONDS = 30.0
"""So long a process waits for the others to come to the same error: longer than a step takes."""
AGAIN = "nothing saved is lost, and the same command goes on from there"

_numbers = itertools.count()


class OutOfStep(CakdError):
    """One of several processes of a run cannot go on, and the others cannot without it."""


def out_of_step(error: BaseException, where: str, told: str, accelerator: Accelerator) -> OutOfStep | None:
    """Return what ends a run of several processes in one line: no memory here, or a process that has ended there."""
    if accelerator.num_processes == 1:
        return None
    place = _place(accelerator)
    if is_out_of_memory(error):
        help = "take fewer students side by side (--max-lanes), leave this method out, or take --precision bf16"
        return OutOfStep(f"out of memory in {place}, {where}: {told}: {help}; {AGAIN}")
    if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
        return OutOfStep(f"{place} has lost another one, {where}: see what that one says; {AGAIN}")
    return None


def failed_alone(error: BaseException, where: str, told: str, accelerator: Accelerator) -> OutOfStep | None:
    """Return what ends a run of several processes whose others have not met the same error; None if all have.

    Only then can a lane be closed on all of them: others may wait inside of its step for this one's gradients.
    """
    if accelerator.num_processes == 1 or _all_say(f"{where}: {_origin(error)}", accelerator):
        return None
    last = "and leaves this method to the end"
    return OutOfStep(f"{_place(accelerator)} failed and others did not, {where}: {told}; {AGAIN}, {last}")


def _place(accelerator: Accelerator) -> str:
    return f"process {accelerator.process_index} of {accelerator.num_processes}"


def _origin(error: BaseException) -> str:
    """Return the kind of an error and the lines it came through: what is equal where all processes meet it."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + "".join(f" {Path(frame.filename).name}:{frame.lineno}" for frame in frames)


def _all_say(text: str, accelerator: Accelerator) -> bool:
    """Return True if every process comes here, in time and with the same text.

    By the store that the processes have met in, and no collective: the others may be inside of one.
    """
    store, number = torch.distributed.distributed_c10d._get_default_store(), next(_numbers)
    keys = [f"cakdbench/{number}/{rank}" for rank in range(accelerator.num_processes)]
    try:
        store.set(keys[accelerator.process_index], text)
        store.wait(keys, timedelta(seconds=AGREE_SECONDS))
        return all(store.get(key) == text.encode() for key in keys)
    except RuntimeError:  # torch's own errors are of this kind
        return False
