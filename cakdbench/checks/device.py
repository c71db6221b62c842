"""The check that a method trains on a device that is not the CPU, and waits for it no more than the engine does."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._pytree import tree_map

from cakdbench.checks.gpu_rules import DEVICE, DeviceFault, GpuRules
from cakdbench.checks.lab import Direction, Fault, Lab, make_trainer, short_recipe
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.recipes import Recipe
from cakdbench.train.evaluate import Examiner
from cakdbench.train.lane import Lane
from cakdbench.train.trainer import Keeper
from cakdbench.utils.device import make_accelerator


class OnDevice(Accelerator):
    """Accelerate as it is with one process, on the device of `GpuRules`."""

    def __init__(self) -> None:
        make_accelerator(cpu=True)
        super().__init__(cpu=True)

    @property
    def device(self) -> torch.device:
        return DEVICE


class _Saved(Keeper):
    """Keeps the first state it is given, as a checkpoint brings it back: on the CPU."""

    state: dict[str, Any] | None = None

    def save(self, lane: Lane) -> None:
        if self.state is None:
            lane.method.before_save()
            self.state = tree_map(_on_cpu, lane.state())


HOST = (
    *(Lab.lane, Lane.load, Lane.flush_metrics, Examiner.result, _Saved.save),
    *(SampleStream.epoch, EvalStream.on),
)
"""Where a lane may wait for its device: before its first step, when its losses are read, when it is tested and saved;
and where images are rendered."""


def _on_cpu(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value


def full_recipe() -> Recipe:
    """Return a recipe of two epochs of a step, with all that a lane may have: EMA, clipping, an optimizer's state."""
    adam = {"optimizer.name": "adamw", "clip_grad": 1.0, "ema_decay": 0.9, "augment.mixup": 0.2}
    return short_recipe(epochs=2, global_batch=20, local_batch=10, **adam)


def train_on_device(lab: Lab, direction: Direction) -> list[DeviceFault]:
    """Train a lane on the device, and from its first checkpoint once more; return what broke the device's rules.

    Raises:
        Fault: the lane failed.
    """
    recipe, saved, rules = full_recipe(), _Saved(), GpuRules(HOST)
    _train(lab, direction, recipe, rules, saved)
    _train(lab, direction, recipe, rules, Keeper(), saved.state)
    return rules.faults


def steps_on_device(lab: Lab, direction: Direction) -> list[DeviceFault]:
    """Make two steps of a local batch each on the device; return what broke its rules.

    Raises:
        Fault: the lane failed.
    """
    rules = GpuRules(HOST)
    _train(lab, direction, short_recipe(local_batch=10), rules, Keeper())
    return rules.faults


def _train(
    lab: Lab, direction: Direction, recipe: Recipe, rules: GpuRules, keeper: Keeper, state: dict[str, Any] | None = None
) -> None:
    with rules:
        lane = lab.lane(direction, recipe, OnDevice())
        if state:
            with warnings.catch_warnings():  # torch notes that tensors without content take none
                warnings.simplefilter("ignore")
                lane.load(state)
    trainer = make_trainer([lane], direction, keeper=keeper)
    with rules:
        trainer.run()
    if keeper.failed and not rules.faults:
        (reason,) = keeper.failed.values()
        raise Fault(f"{direction}: on a device that is not the CPU, {reason}", "run it with device=x.device throughout")


def on_device(lab: Lab) -> str:
    """Train the method where tensors of two devices must not meet and a step must not wait for its device."""
    for direction in lab.some:
        _judge(str(direction), train_on_device(lab, direction))
    for name in lab.method.variants:
        variant = replace(lab, variant=name)
        for direction in variant.accepted[:1]:
            _judge(f"{variant.label}, {direction}", steps_on_device(variant, direction))
    return f"{len(lab.some)} directions, {len(lab.method.variants)} variants; a step does not wait"


def _judge(where: str, faults: list[DeviceFault]) -> None:
    if faults:
        more = f" ({len(faults) - 1} more such places)" if len(faults) > 1 else ""
        raise Fault(f"{where}: {faults[0]}{more}", faults[0].hint)
