"""A count of multiply-adds that shares nothing with the product's: from the shapes of what code calls."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def convolution(out: Tensor, x: Tensor, weight: Tensor, *rest, **more) -> int:
    return out.numel() * weight[0].numel()


def transposed_convolution(out: Tensor, x: Tensor, weight: Tensor, *rest, **more) -> int:
    return x.numel() * weight[0].numel()


def linear(out: Tensor, x: Tensor, weight: Tensor, *rest, **more) -> int:
    return out.numel() * weight.shape[1]


def product(out: Tensor, left: Tensor, right: Tensor) -> int:
    return out.numel() * left.shape[-1]


def added_product(out: Tensor, start: Tensor, left: Tensor, right: Tensor) -> int:
    return product(out, left, right)


def attention(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest, **more) -> int:
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def einsum(out: Tensor, equation: str, *factors: Tensor) -> int:
    sizes = {}
    for names, factor in zip(equation.replace(" ", "").split("->")[0].split(","), factors, strict=True):
        sizes.update(zip(names, factor.shape, strict=True))
    return math.prod(sizes.values())


RULES = {
    F.conv2d: convolution,
    F.conv_transpose2d: transposed_convolution,
    F.linear: linear,
    F.scaled_dot_product_attention: attention,
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm), product),
    torch.baddbmm: added_product,
    torch.einsum: einsum,
}


class Arithmetic(TorchFunctionMode):
    """While it is active, adds up in `macs` what the called functions multiply, whichever kernels compute them."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if rule := RULES.get(func):
            self.macs += rule(out, *args, **(kwargs or {}))
        return out


@pytest.fixture
def arithmetic():
    return Arithmetic()
