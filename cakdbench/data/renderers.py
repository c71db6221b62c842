"""Processes that render images: they end with this one, and their death is told from errors of the work."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from cakdbench.utils.errors import CakdError

DIED = "DataLoader worker (pid"
"""How torch begins when a rendering process has died; it says so wherever this process happens to be at work."""
RAISED_THERE = "Caught "
"""How torch begins with an error that a rendering process has raised."""


class RendererLost(CakdError):
    """A process that renders images was killed, perhaps by a system that is short of memory."""


def lost_renderer(error: BaseException) -> RendererLost:
    """Return the error for readers that stands for what torch, or a pipe of the dead process, says."""
    if isinstance(error, RendererLost):
        return error
    told = " ".join(str(error).split()) or type(error).__name__
    return RendererLost(f"a process that renders images was lost ({told}); if that goes on, take fewer --workers")


def is_lost_renderer(error: BaseException) -> bool:
    """Return True for what torch or this module says of a rendering process that has died."""
    return isinstance(error, RendererLost) or isinstance(error, RuntimeError) and str(error).startswith(DIED)


def prepare_renderer(worker: int) -> None:
    """Begin a rendering process: it leaves Ctrl-C to the training process, and ends when that one is gone.

    Torch looks for another parent, in vain where processes are forked from a server, as Python 3.14 has it: the server
    lives as long as they do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process still needs it to reach a checkpoint
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def items(loader: DataLoader) -> Iterator[Any]:
    """Yield what a loader gives.

    Raises:
        CakdError: an item that is an error; or a rendering process has died.
    """
    batches = iter(loader)
    while True:
        try:
            item = next(batches)
        except StopIteration:
            return
        except (EOFError, OSError, RuntimeError) as error:  # also of the pipes and sockets that a dead process leaves
            if not loader.num_workers or str(error).startswith(RAISED_THERE):
                raise
            raise lost_renderer(error) from error
        if isinstance(item, CakdError):
            raise item
        yield item
