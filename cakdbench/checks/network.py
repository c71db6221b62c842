"""Checks of a network of one's own, without a method."""

import time
from collections.abc import Callable, Iterator

import torch

from cakdbench.checks.check import Finding
from cakdbench.models.catalog import entry
from cakdbench.models.staged import NoStages, StagedModel, describe
from cakdbench.utils.errors import UsageError
from cakdbench.utils.rng import seeded

CLASSES = 10


def check_network(name: str) -> Iterator[Finding]:
    """Check that a network can be described, trained and stored, at its own image size; ends at the first fault."""
    checks: dict[str, Callable[[str], str]] = {"described": _described, "trains": _trains, "stored": _stored}
    for title, check in checks.items():
        begun = time.monotonic()
        try:
            yield Finding(title, True, check(name), seconds=time.monotonic() - begun)
        except UsageError as error:
            yield Finding(title, False, str(error), "see docs/own_network.md", time.monotonic() - begun)
            return


def _described(name: str) -> str:
    info = describe(name, CLASSES, entry(name).image_size)
    parts = ", ".join(sorted(info.parts - {"model"}))
    why = f"; {info.layouts.reason}" if isinstance(info.layouts, NoStages) else ""
    return f"{info.kind}, {info.parameters:,} parameters; gives {parts}{why}"


def _model(name: str) -> StagedModel:
    with seeded("check network", name):
        return StagedModel(name, CLASSES, entry(name).image_size)


def _trains(name: str) -> str:
    model = _model(name).train()
    with seeded("check network", "images"):
        logits = model(torch.randn(4, 3, model.image_size, model.image_size)).logits
    logits.logsumexp(1).sum().backward()
    still = [key for key, parameter in model.net.named_parameters() if parameter.grad is None]
    if still:
        raise UsageError(f"no gradient reaches {still[0]} ({len(still)} in all): remove what the forward does not use")
    if not logits.isfinite().all():
        raise UsageError("its logits are not finite at the start")
    return f"{len(list(model.net.parameters()))} tensors get gradients"


@torch.no_grad()
def _stored(name: str) -> str:
    trained, other = _model(name).eval(), StagedModel(name, CLASSES, entry(name).image_size).eval()
    other.load_exported(trained.export_state())
    images = torch.ones(2, 3, trained.image_size, trained.image_size)
    if not torch.equal(trained(images).logits, other(images).logits):
        raise UsageError("its state dict does not hold all that its logits depend on: register parameters and buffers")
    return "the state dict gives the same logits"
