"""The device memory of a lane at its peak, as if it trained alone."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cakdbench.train.lane import Lane

SETTLED = 3
"""Steps of an epoch after which a lane's memory does not grow: an optimizer makes its averages in the first."""


class PeakMeter:
    """Measures what each lane takes at the peak of its steps, without what the lanes beside it hold.

    Nothing is measured on a CPU, which does not count, nor in steps that would say nothing new.
    """

    def __init__(self, device: torch.device):
        self.counts = device.type == "cuda"
        self.active = False

    def at_step(self, step: int) -> None:
        """Begin a step; `step` is counted from where this epoch began or went on."""
        self.active = self.counts and step < SETTLED

    def of_lane(self, lanes: Sequence[Lane], lane: Lane, act: Callable[[Lane], None]) -> None:
        """Let a lane act, and keep its peak; the teacher and the batch are in it."""
        if not self.active:
            return act(lane)
        torch.cuda.reset_peak_memory_stats()
        others = held_beside(lanes, lane)
        act(lane)
        lane.peak = max(lane.peak or 0, torch.cuda.max_memory_allocated() - others)


def held_beside(lanes: Sequence[Lane], lane: Lane) -> int:
    """Return the bytes that the other lanes keep."""
    return sum(held_bytes(other) for other in lanes if other is not lane)


def held_bytes(lane: Lane) -> int:
    """Return the bytes of the tensors that a lane keeps between its steps."""
    storages = (tensor.untyped_storage() for tensor in _held(lane))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _held(lane: Lane) -> Iterator[Tensor]:
    modules = (lane.method, *([lane.ema] if lane.ema else []))
    for module in modules:
        for parameter in module.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
        yield from module.buffers()
    for optimizer in (lane.optimizer, *lane.extra_optimizers):
        yield from (leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))
