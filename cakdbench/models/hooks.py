"""Look into a network while it runs: inputs of its activations, and queries, keys and values of its attention."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from cakdbench.models.family import Family, LastAttention

QKV = tuple[Tensor, Tensor, Tensor]


@contextlib.contextmanager
def capture_preactivations(family: Family, net: nn.Module) -> Iterator[list[Tensor | None]]:
    """Collect, inside the block, what the four stages' last activations take in a run; None for a stage without."""
    taken: list[Tensor | None] = [None] * 4

    def keep(number: int, module: nn.Module, inputs: tuple[Tensor]) -> None:
        taken[number - 1] = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]

    ends = {number: family.last_activation(net, number).activation for number in (1, 2, 3, 4)}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, number=number: keep(number, module, inputs))
        for number, module in ends.items()
        if module is not None
    ]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def capture_attention(last: LastAttention) -> Iterator[list[Tensor]]:
    """Collect, inside the block, what the attention's `qkv` gives in a run: `(B or B * windows, N, 3 D)`."""
    projected: list[Tensor] = []
    hook = last.module.qkv.register_forward_hook(lambda module, inputs, output: projected.append(output))
    try:
        yield projected
    finally:
        hook.remove()


def heads_of(last: LastAttention, projected: Tensor, grid: tuple[int, int]) -> QKV:
    """Return Q, K and V `(B, heads, prefix + H*W, d)` from `capture_attention`; windows are laid back on the grid."""
    if last.window:
        projected = _from_windows(projected, last.window, grid)
    q, k, v = projected.unflatten(2, (3, last.module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (
        getattr(last.module, "q_norm", nn.Identity())(q),
        getattr(last.module, "k_norm", nn.Identity())(k),
        v,
    )


def _from_windows(x: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Turn `(B * windows, h*w, D)` into `(B, H*W, D)`, without the rows and columns that only fill up the windows."""
    down, across = (-(-side // size) for side, size in zip(grid, window))
    x = x.unflatten(0, (-1, down, across)).unflatten(3, window)
    x = x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]].flatten(1, 2)
