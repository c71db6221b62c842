"""Several classifiers as one teacher: it gives the mean of their logits, and what each of them says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cakdbench.models.info import ModelInfo, NoStages
from cakdbench.models.staged import Output, StagedModel

MIXED = "mixed"
"""The kind of several networks that are of different kinds."""


class Ensemble(StagedModel):
    """Networks for the same classes, asked one after the other; there are no stages to enter."""

    def __init__(self, members: Sequence[StagedModel]):
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        self.info = join_infos([member.info for member in members])

    def forward(self, images: Tensor, stages: bool = False, preacts: bool = False, attention: bool = False) -> Output:
        """Run every network once; the logits are the mean, in float32, and `each` has the networks' own outputs."""
        each = tuple(member(images, stages, preacts, attention) for member in self.members)
        logits = torch.stack([output.logits.float() for output in each]).mean(0)
        return Output(logits, None, each=each)


def join(models: Iterable[StagedModel]) -> StagedModel:
    """Return one network as it is, several as an ensemble."""
    models = list(models)
    return models[0] if len(models) == 1 else Ensemble(models)


def joined_kind(kinds: Sequence[str]) -> str:
    """Return the kind of all of them, or that they differ."""
    return kinds[0] if len({*kinds}) == 1 else MIXED


def join_infos(infos: Sequence[ModelInfo]) -> ModelInfo:
    """Return the facts of one network as they are; of several those of their ensemble, as wide as the widest."""
    if len(infos) == 1:
        return infos[0]
    name = "+".join(info.name for info in infos)
    return ModelInfo(
        name=name,
        kind=joined_kind([info.kind for info in infos]),
        image_size=infos[0].image_size,
        num_classes=infos[0].num_classes,
        width=max(info.width for info in infos),
        layouts=NoStages(f"{name} are several networks, which have stages of their own each"),
        composable=False,
        parameters=sum(info.parameters for info in infos),
        members=tuple(infos),
    )
