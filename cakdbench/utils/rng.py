"""Randomness that is derived, never drawn: every random choice is a function of its names."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive(*parts: object) -> int:
    """Return a 63-bit seed that depends on `parts` alone, the same on every machine and Python."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def reseed(*parts: object) -> int:
    """Seed Python, NumPy and torch's CPU generator from `parts` and put nothing back: for use within `seeded`."""
    seed = derive(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.random.default_generator.manual_seed(seed)
    return seed


@contextlib.contextmanager
def seeded(*parts: object, device: torch.device | None = None) -> Iterator[int]:
    """Seed Python, NumPy and torch from `parts` inside the block; put the outer states back after it.

    Args:
        parts: what the randomness may depend on, e.g. `(seed, epoch, index)`.
        device: a GPU whose generator is seeded and put back too.
    """
    kind = device.type if device else "cpu"
    cuda = [device] if device is not None and kind == "cuda" else []
    outer = random.getstate(), np.random.get_state()
    apple = torch.mps.get_rng_state() if kind == "mps" else None
    with torch.random.fork_rng(devices=cuda):
        seed = reseed(*parts)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        if apple is not None:
            torch.mps.manual_seed(seed)
        try:
            yield seed
        finally:
            random.setstate(outer[0])
            np.random.set_state(outer[1])
            if apple is not None:
                torch.mps.set_rng_state(apple)
