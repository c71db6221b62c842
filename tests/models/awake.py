"""Networks on which a wrongly cut stage shows."""

import torch
from torch import nn

from cakdbench.models.staged import StagedModel


def awake(name: str, num_classes: int, image_size: int, **options) -> StagedModel:
    """A model none of whose parts is asleep: fresh heads, residual branches and layer scales start (nearly) at zero."""
    torch.manual_seed(0)
    model = StagedModel(name, num_classes, image_size, **options)
    wake(model)
    return model


@torch.no_grad()
def wake(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.abs().max() < 1e-3:
            parameter.normal_(std=0.1)


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
