"""A lane: one method training one student, beside others or alone, with the same result."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor

from cakdbench.method import Batch, Method, Step, step_fault
from cakdbench.recipes import Recipe
from cakdbench.records import Epoch
from cakdbench.train.normstats import NormStats
from cakdbench.train.stopwatch import Stopwatch
from cakdbench.utils.rng import seeded

FUSED = ("adam", "adamw")
"""Optimizers that take one kernel for all parameters on CUDA; on a CPU it would round otherwise.

Not SGD: torch's fused one fails where a parameter gets its first gradient in a later step, as FOFA's and FCFD's do.
"""


class LaneFailure(Exception):
    """A lane cannot go on; the message says at which step and why."""


@dataclass
class RunningMean:
    """Sums over the steps and samples of the epoch in progress."""

    losses: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    correct: int = 0
    samples: int = 0


class PendingMetrics(NamedTuple):
    """A local batch whose losses and count of correct answers still lie on the device."""

    step: int
    losses: dict[str, Tensor]
    correct: Tensor
    samples: int


class Lane:
    """A method in training: module, optimizer, schedule, EMA, history.

    Args:
        method: with its student; it moves to the accelerator's device.
        accumulation: local batches per optimizer step on this process.
        label: what the lane is called in messages.

    Attributes:
        peak: bytes of device memory at the peak of its steps in this process, as if it were alone; None where nothing
            counts them.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        seed: int,
        accelerator: Accelerator,
        *,
        steps_per_epoch: int,
        accumulation: int,
        label: str,
        compile: bool = False,
    ):
        self.method = method
        self.recipe = recipe
        self.seed = seed
        self.label = label
        self.accelerator = accelerator
        self.accumulation = accumulation
        self.steps_per_epoch = steps_per_epoch
        self.module = accelerator.prepare_model(method)
        if compile:
            method.compile()
        self.extra_optimizers = method.extra_optimizers()
        self.optimizer = make_optimizer(method, recipe, self.extra_optimizers)
        self.schedule = make_schedule(self.optimizer, recipe, steps_per_epoch)
        self.ema = ModelEmaV3(method.student, recipe.ema_decay) if recipe.ema_decay else None
        self.norms = NormStats(method, accumulation, accelerator.num_processes)
        self.step = 0
        self.history: list[Epoch] = []
        self.running = RunningMean()
        self.training = Stopwatch(accelerator.device)
        self.evaluating = Stopwatch(accelerator.device)
        self.images = 0
        self.peak: int | None = None
        self._pending: list[PendingMetrics] = []

    def start_epoch(self, epoch: int) -> None:
        self.method.train()
        self.schedule.step(epoch)
        self.method.epoch_start(epoch)

    def local_step(self, batch: Batch, local_index: int) -> None:
        """Run forward and backward on one local batch; the last of a step also moves the weights."""
        first, last = local_index == 0, local_index == self.accumulation - 1
        device = self.accelerator.device
        with self.training.running(), seeded(self.seed, self.method.id, self.step, batch.micro_batch, device=device):
            if first:
                self.norms.start_step()
                self.schedule.step_update(self.step)
            self._backward(batch, last)
            self.norms.end_batch()
            if last:
                self.norms.end_step()
                self.move_weights()
                self.step += 1
        self.images += len(batch.target)

    def _backward(self, batch: Batch, last: bool) -> None:
        sync = torch.enable_grad() if last else self.accelerator.no_sync(self.module)
        with sync:
            with self.accelerator.autocast():
                out: Step = self.module(batch)
            if fault := step_fault(out, len(batch.images), self.method.student.num_classes):
                kind = LaneFailure if self.accelerator.num_processes == 1 else RuntimeError  # others wait
                raise kind(f"at step {self.step}: {'; '.join(fault)}")
            losses = out.everything
            self.accelerator.backward(sum(losses.values()) / self.accumulation)
        correct = (out.logits.detach().argmax(1) == batch.hard_target).sum()
        losses = {name: loss.detach().reshape(()) for name, loss in losses.items()}
        self._pending.append(PendingMetrics(self.step, losses, correct, len(batch.target)))

    def move_weights(self) -> None:
        """Step the optimizers and the averaged weights."""
        if self.recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(parameters_of(self.optimizer), self.recipe.clip_grad)
        for optimizer in (self.optimizer, *self.extra_optimizers):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.method.step_end()
        if self.ema:
            self.ema.update(self.method.student)

    def flush_metrics(self) -> None:
        """Read the losses of the steps since the last call (the only wait for the device).

        Raises:
            LaneFailure: one of them is not finite.
        """
        self.training.flush()
        self.evaluating.flush()
        pending, self._pending = self._pending, []
        for step, losses, correct, samples in self._read(pending):
            bad = [name for name, value in losses.items() if not math.isfinite(value)]
            if bad:
                raise LaneFailure(f"loss {bad[0]!r} is {losses[bad[0]]} at step {step}")
            for name, value in losses.items():
                self.running.losses[name] = self.running.losses.get(name, 0.0) + value
            self.running.steps += 1
            self.running.correct += correct
            self.running.samples += samples

    def _read(self, pending: list[PendingMetrics]) -> Iterator[tuple[int, dict[str, float], int, int]]:
        """Yield the pending steps as numbers, losses averaged and counts summed over the processes."""
        if not pending:
            return
        flat = torch.stack([t for metrics in pending for t in (*metrics.losses.values(), metrics.correct.float())])
        processes = self.accelerator.num_processes
        rows = self.accelerator.gather(flat[None]).tolist()  # averaged here, since Apple's GPUs have no float64
        values = map(fmean, zip(*rows))
        for metrics in pending:
            losses = {name: next(values) for name in metrics.losses}
            yield metrics.step, losses, round(next(values) * processes), metrics.samples * processes

    def end_epoch(self, top1: float | None, ema_top1: float | None) -> Epoch:
        """Close the epoch in progress as a line of the history; accuracies in percent."""
        line = self.epoch_so_far(top1, ema_top1)
        self.running = RunningMean()
        self.history.append(line)
        return line

    def epoch_so_far(self, top1: float | None = None, ema_top1: float | None = None) -> Epoch:
        """Return the means over the steps of the epoch in progress whose metrics have been read, at least one."""
        running = self.running
        return Epoch(
            epoch=len(self.history),
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            losses={name: total / running.steps for name, total in running.losses.items()},
            train_top1=100 * running.correct / running.samples,
            top1=top1,
            ema_top1=ema_top1,
        )

    @property
    def mean_loss(self) -> float | None:
        """Return the mean over the epoch so far, all terms together; None before its first step."""
        return sum(self.running.losses.values()) / self.running.steps if self.running.steps else None

    @property
    def images_per_second(self) -> float | None:
        """Return the training images of this process over the time of the lane's own training steps."""
        return self.images / self.training.seconds if self.training.seconds else None

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on, tensors and plain values only."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "extra_optimizers": [optimizer.state_dict() for optimizer in self.extra_optimizers],
            "ema": self.ema.module.state_dict() if self.ema else None,
            "history": [line.model_dump() for line in self.history],
            "running": asdict(self.running),
            "images": self.images,
            "seconds": [self.training.seconds, self.evaluating.seconds],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.images = state["images"]
        self.training.seconds, self.evaluating.seconds = state["seconds"]
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        for optimizer, saved in zip(self.extra_optimizers, state["extra_optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.history = [Epoch(**line) for line in state["history"]]
        self.running = RunningMean(**state["running"])


def parameters_of(*optimizers: torch.optim.Optimizer) -> list[Tensor]:
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def make_optimizer(method: Method, recipe: Recipe, others: list[torch.optim.Optimizer] = []) -> torch.optim.Optimizer:
    """Return timm's optimizer, by its parameter groups, over the student and the extra modules that `others` leave."""
    spec = recipe.optimizer
    more: dict[str, Any] = {"betas": tuple(spec.betas)} if spec.betas else {}
    if spec.name in FUSED and next(method.parameters()).device.type == "cuda":
        more["fused"] = True
    taken = parameters_of(*others)
    for parameter in taken:  # timm passes over what needs no gradient
        parameter.requires_grad_(False)
    optimizer = create_optimizer_v2(
        method, opt=spec.name, lr=spec.lr, weight_decay=spec.weight_decay, momentum=spec.momentum, **more
    )
    for parameter in taken:
        parameter.requires_grad_(True)
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler:
    """Return timm's schedule: a function of the epoch or, where the recipe says so, of the step."""
    spec = recipe.schedule
    decay: dict[str, dict[str, Any]] = {
        "step": {"decay_epochs": spec.decay_epochs},
        "multistep": {"decay_milestones": spec.decay_epochs},
    }
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=spec.name,
        num_epochs=recipe.epochs,
        min_lr=spec.min_lr,
        warmup_epochs=spec.warmup_epochs,
        warmup_lr=spec.warmup_lr,
        decay_rate=spec.decay_rate,
        step_on_epochs=spec.per == "epoch",
        updates_per_epoch=steps_per_epoch,
        **decay.get(spec.name, {}),
    )
    return schedule
