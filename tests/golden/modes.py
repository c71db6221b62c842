"""Arithmetic that all versions of torch and kinds of CPU share, where torch's own differs among them."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

PRODUCTS = {
    *("linear", "conv2d", "conv_transpose2d", "matmul", "__matmul__", "bmm", "baddbmm", "einsum"),
    *("scaled_dot_product_attention", "multi_head_attention_forward", "batch_norm"),
}
NORMS = {"layer_norm", "group_norm"}


class SharedDraws(TorchFunctionMode):
    """Draw Bernoulli numbers and dropout's masks by `torch.rand`; on a CPU, torch's own differ among versions."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = kwargs or {}
        if func is Tensor.bernoulli_:
            return _bernoulli(*args, **given)
        if func is torch.nn.functional.dropout:
            return _dropout(*args, **given)
        return func(*args, **given)


def _bernoulli(x: Tensor, p: float = 0.5) -> Tensor:
    return x.copy_(torch.rand(x.shape) < p)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return x * (torch.rand(x.shape) >= p) / (1 - p) if training and p else x


class HalfPrecision(TorchFunctionMode):
    """Let float64 models do under autocast as float32 ones do: products and batch norms of them are bfloat16.

    Autocast itself leaves float64 alone, and bfloat16 products of CPUs agree to a percent. Float64 stands for float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        product = func.__name__ in PRODUCTS
        if not product and func.__name__ not in NORMS:
            return func(*args, **kwargs or {})
        result = func(*tree_map(_raised, args), **tree_map(_raised, kwargs or {}))
        return tree_map(_halved, result) if product and torch.is_autocast_enabled("cpu") else result


def _raised(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _halved(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
