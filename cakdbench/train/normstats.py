"""Batch-norm statistics that do not depend on how a global batch is split.

The local batch is part of the protocol, the number of processes is not. Each local batch of a step moves the
running statistics from the same start, and the step keeps their mean over all local batches. Running statistics
are linear in the batches', so this equals one process per local batch with its statistics averaged over the
processes at the end, which is what timm's `--dist-bn reduce` does.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class NormStats:
    """Averages the running statistics of a module's batch norms over the local batches of a step.

    Args:
        batches: local batches a step makes on this process.
        processes: how many processes share the step.
    """

    def __init__(self, module: nn.Module, batches: int, processes: int):
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self.active = bool(norms) and batches * processes > 1
        # torch types them as optional: norms that do not track their statistics have none.
        self.stats = [cast(Tensor, b) for m in norms for b in (m.running_mean, m.running_var)]
        self.counts = [cast(Tensor, m.num_batches_tracked) for m in norms]
        self.batches = batches
        self.processes = processes

    def start_step(self) -> None:
        if self.active:
            self._start = [b.clone() for b in self.stats]
            self._counts = [c.clone() for c in self.counts]
            self._sums = [torch.zeros_like(b) for b in self.stats]

    def end_batch(self) -> None:
        """Take what a local batch made of the statistics and go back to the step's start."""
        if self.active:
            for total, now, start in zip(self._sums, self.stats, self._start, strict=True):
                total += now
                now.copy_(start)

    def end_step(self) -> None:
        if self.active:
            for now, total in zip(self.stats, self._sums, strict=True):
                now.copy_(self._over_processes(total) / (self.batches * self.processes))
            for count, start in zip(self.counts, self._counts, strict=True):
                count.copy_(start + 1)

    def _over_processes(self, total: Tensor) -> Tensor:
        if self.processes > 1:
            dist.all_reduce(total)
        return total
