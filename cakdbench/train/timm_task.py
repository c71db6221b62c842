"""A method as a training task of timm, for loops that step on `task(images, target)["loss"]`, such as timm's own.

    task = MethodTask("fbt:no_infonce", StagedModel("resnet18", 100), teacher, dataset="cifar100")
    optimizer = create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.05)
    for epoch in range(epochs):
        task.epoch_start(epoch)
        for images, target in loader:
            task(images, target)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            task.step_end()

The student of such a loop is the same as one of `cakdbench run` in its losses alone: recipe, order and noise are the
loop's, and its numbers are none for a board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from timm.task import TrainingTask
from timm.utils import ModelEmaV3
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cakdbench.build import build_method, staged_pair
from cakdbench.train.batch import make_batch
from cakdbench.utils.errors import UsageError


class MethodTask(TrainingTask):
    """Any method without an adversary where timm expects a task.

    Checkpoints hold the student as timm's own network and, as task state, the method's modules and buffers. The
    teacher is frozen here, and moves with the task; an EMA is of the student alone.

    Args:
        label: `METHOD`, `METHOD:VARIANT` or `METHOD[KEY=VALUE]`.
        student: to be trained, a `StagedModel`, a network of timm or any other that gives logits; takes images as the
            loop normalises them.
        teacher: likewise (see `StagedModel.expect_input`); None for methods that need none.
        criterion: `(logits, target) -> scalar`, the label loss; cross-entropy by default.
        dataset: its name, for the settings that a method has for some datasets.
        settings: of the method, over the label's.
        labels: `(N,)` of the training images, for methods that ask for them; then every call needs `index`.
        image_size: of the images, in pixels; default: what a network was made for, or the other one.
        device, dtype, verbose: as in timm.

    Raises:
        UsageError: a name is unknown, a setting impossible, the pair refused, the classes differ in number, or the
            method trains an adversary.
    """

    def __init__(
        self,
        label: str,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        dataset: str = "",
        settings: Mapping[str, Any] | None = None,
        labels: Tensor | None = None,
        image_size: int | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        pupil, self.teacher = staged_pair(student, teacher, image_size)
        self.method = build_method(label, pupil, self.teacher, dataset=dataset, settings=settings, labels=labels)
        self.trainable_module: nn.Module = self.method
        if self.method.extra_optimizers():
            raise UsageError(f"{label} trains an adversary, and timm's loop has one optimizer: use `cakdbench run`")
        self.criterion = criterion or nn.CrossEntropyLoss()
        self.epoch = 0
        self.step = 0
        self._batches = 0
        self.to(self.device)

    def forward(self, input: Tensor, target: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
        """Return `loss`, `output` (the student's logits), and each loss by its name, with its weight.

        Args:
            input: `(B, 3, S, S)`.
            target: `(B,)` class indices or `(B, C)` probabilities.
            index: `(B,)` places of the samples in `labels`.
        """
        rank, world = _process()
        micro_batch = self._batches * world + rank
        self._batches += 1
        batch = make_batch(
            self.method,
            input,
            target,
            index,
            epoch=self.epoch,
            step=self.step,
            micro_batch=micro_batch,
            criterion=self.criterion,
        )
        step = self.trainable_module(batch)
        return {**step.losses, "loss": step.total, "output": step.logits}

    def epoch_start(self, epoch: int) -> None:
        """Begin an epoch, counted from 0, before its first step: ramps and rhythms depend on it."""
        self.epoch = epoch
        self.method.epoch_start(epoch)

    def step_end(self) -> None:
        """Renew what the batches of a step share; to be called after every step of the optimizer."""
        self.step += 1
        self._batches = 0
        self.method.step_end()

    def before_save(self) -> None:
        """Gather the state that some methods spread; to be called on all of several processes before one saves."""
        self.method.before_save()

    def train(self, mode: bool = True) -> MethodTask:
        """Switch the mode as of any module, but for the teacher, which stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: Any) -> MethodTask:
        self.trainable_module = DistributedDataParallel(self.method, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(  # type: ignore[override]  # timm's signature, which is not torch's
        self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any
    ) -> nn.Module | None:
        """Compile the method's step; the student by itself is returned as it is."""
        self.method.compile(backend=backend, mode=mode, **compile_kwargs)
        return self.get_eval_model()

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """Return timm's own network of the student, images to logits, or its EMA."""
        return getattr(self, "trainable_module_ema", None) if ema else self.method.student.net

    def setup_ema(
        self, decay: float = 0.9999, use_warmup: bool = False, device: torch.device | None = None, **options: Any
    ) -> nn.Module:
        net = self.method.student.net
        self.trainable_module_ema = ModelEmaV3(net, decay=decay, use_warmup=use_warmup, device=device, **options)
        return self.trainable_module_ema

    def update_ema(self, step: int | None = None) -> None:
        if self.has_ema():
            self.trainable_module_ema.update(self.method.student.net, step=step)

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """Return all that is trained; without a head: less the student's classifier."""
        head = set(self.method.student.classifier.parameters()) if exclude_head else set()
        return [p for p in self.method.parameters() if p.requires_grad and p not in head]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return the method's state besides the student's; nothing of an EMA."""
        if ema:
            return {}
        if _process().world == 1:  # what gathers would wait for processes that do not save
            self.method.before_save()
        kept = {name: value for name, value in self.method.state_dict().items() if not name.startswith("student.")}
        return {"step": self.step, "method": kept}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        if ema or not state:
            return
        self.step = state["step"]
        own = {f"student.{name}": value for name, value in self.method.student.state_dict().items()}
        self.method.load_state_dict({**own, **state["method"]}, strict=strict)


class _Process(NamedTuple):
    rank: int
    world: int


def _process() -> _Process:
    """Return which of how many processes this is."""
    if not distributed.is_initialized():
        return _Process(0, 1)
    return _Process(distributed.get_rank(), distributed.get_world_size())
