"""One step of every method on a device against the CPU's."""

import contextlib
import math

import pytest
import torch

from cakdbench.checks.lab import MODELS, Direction, Lab, make_batch, teacher_model
from cakdbench.registry import get_method, method_ids
from cakdbench.train.events import FLUSH_EVERY
from cakdbench.utils.rng import seeded

from .lab import CpuDraws, OnDevice, moved

METHODS = method_ids()


def cases() -> list[tuple[str, Direction]]:
    return [(id, direction) for id in METHODS for direction in Lab(get_method(id)).some]


def step(id: str, direction: Direction, device: torch.device, precision: torch.dtype | None = None):
    """Return the losses of a first step, and the norm of the gradients."""
    teacher = teacher_model(MODELS[direction.teacher]).to(device)
    method = Lab(get_method(id)).make(direction, teacher).to(device)
    batch = moved(make_batch(direction.teacher, 8), device)
    with seeded("step"), CpuDraws(), torch.autocast(device.type, precision, enabled=precision is not None):
        made = method(batch)
    sum(made.everything.values()).backward()
    grads = [parameter.grad.double().square().sum() for parameter in method.parameters() if parameter.grad is not None]
    return {name: loss.item() for name, loss in made.everything.items()}, float(sum(grads)) ** 0.5


@pytest.mark.parametrize(("id", "direction"), cases(), ids=str)
def test_a_step_has_the_losses_of_the_cpu(id, direction, device):
    losses, gradient = step(id, direction, torch.device("cpu"))
    theirs, other = step(id, direction, device)
    assert theirs == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert other == pytest.approx(gradient, rel=1e-3)


@pytest.mark.parametrize(("id", "direction"), cases(), ids=str)
def test_a_step_in_bf16_has_finite_losses_near_those_in_fp32(id, direction, device):
    losses, _ = step(id, direction, torch.device("cpu"))
    half, gradient = step(id, direction, device, torch.bfloat16)
    assert math.isfinite(gradient)
    assert half == pytest.approx(losses, rel=0.1, abs=0.05)


@contextlib.contextmanager
def no_waits(device: torch.device):
    """Let torch raise where the program waits for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("id", METHODS)
def test_a_step_does_not_wait_for_the_device(id, device):
    """After the first one, in which kernels are chosen and memories are made."""
    direction = Lab(get_method(id)).some[0]
    models = {"teacher": MODELS[direction.teacher], "student": MODELS[direction.student]}
    group = OnDevice([id], device, **models)
    lane, trainer = group.lanes[0], group.make_trainer()
    batches = [trainer._batch(samples) for samples in next(group.stream.epoch(0))]
    for number in range(min(3, FLUSH_EVERY)):
        with no_waits(device) if number else contextlib.nullcontext():
            for index, batch in enumerate(batches):
                lane.local_step(batch, index)
    lane.flush_metrics()
    assert lane.running.steps == 3 * len(batches)
