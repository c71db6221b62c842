"""Networks on which a wrongly cut stage shows."""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cakdbench.models.staged import StagedModel


class QuickDraws(TorchFunctionMode):
    """Inside it, a large random tensor repeats a short one: drawing 60 M weights one by one takes seconds."""

    LENGTH = 65_521
    """A prime, so that no two rows of a weight are the same."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function not in (Tensor.uniform_, Tensor.normal_) or arguments[0].numel() <= self.LENGTH:
            return function(*arguments, **options or {})
        long, *numbers = arguments
        short = function(long.new_empty(self.LENGTH), *numbers, **options or {})
        for part in long.view(-1).split(self.LENGTH):
            part.copy_(short[: len(part)])
        return long


def awake(name: str, num_classes: int, image_size: int, **options) -> StagedModel:
    """A model none of whose parts is asleep: fresh heads, residual branches and layer scales start (nearly) at zero."""
    torch.manual_seed(0)
    with QuickDraws():
        model = StagedModel(name, num_classes, image_size, **options)
        wake(model)
    return model


@torch.no_grad()
def wake(module: nn.Module) -> None:
    for parameter in module.parameters():
        if max(map(abs, parameter.aminmax())) < 1e-3:
            parameter.normal_(std=0.1)


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
