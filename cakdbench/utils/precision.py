"""Losses run in float32 whatever the training precision (fp16 and bf16 lose them: exp, sqrt, pdist)."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def force_fp32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run `loss` outside autocast, its half-precision tensor arguments raised to float32.

    float32 and float64 arguments pass unchanged, so that a loss can be checked in double precision.
    """

    @functools.wraps(loss)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        device = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)).device.type
        with torch.autocast(device, enabled=False):
            return loss(*map(_raise, args), **{k: _raise(v) for k, v in kwargs.items()})

    return wrapped


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which networks compute on a device as in a training of that precision, "fp32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def float64(x: Tensor) -> Tensor:
    """Return `x` in float64 on the CPU, since Apple's GPUs have none; without content it stays on its meta device."""
    return x.double() if x.is_meta else x.cpu().double()


def _raise(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
