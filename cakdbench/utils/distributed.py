"""Exchange with the other processes of a run; with one process, its own tensors come back."""

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather(x: Tensor) -> Tensor:
    """Return the `(B, ...)` of every process, `(processes * B, ...)` in the order of their ranks; no gradient."""
    x = x.detach().contiguous()
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def broadcast(x: Tensor) -> Tensor:
    """Return the tensor of the first process; no gradient."""
    x = x.detach().clone()
    if dist.is_initialized():
        dist.broadcast(x, 0)
    return x
