"""Small trainings on a device, and what makes a step comparable with the CPU's."""

import copy
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import cakdbench
from cakdbench.build import build_method
from cakdbench.checks.lab import CLASSES, SIZE, short_recipe, small_dataset, student_model, teacher_model
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.method import Method
from cakdbench.recipes import Recipe
from cakdbench.registry import get_method
from cakdbench.train.events import GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Options, Runtime
from cakdbench.train.trainer import Keeper, Trainer
from cakdbench.utils.device import make_accelerator
from tests.cli_lab import PAIR

DRAWS = {torch.rand, torch.randn, torch.randint}


class CpuDraws(TorchFunctionMode):
    """Draw random numbers on the CPU and move them, so that a step draws the same on every device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = dict(kwargs or {})
        if func in DRAWS:
            device = given.pop("device", None)
            return func(*args, **given).to(device)
        if func is Tensor.bernoulli_:
            return args[0].copy_(torch.empty(args[0].shape).bernoulli_(*args[1:], **given))
        if func is torch.nn.functional.dropout:
            return _dropout(*args, **given)
        return func(*args, **given)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return x * (torch.rand(x.shape) >= p).to(x.device) / (1 - p) if training and p else x


def moved(value: Any, device: torch.device) -> Any:
    """Return a batch, or what is in one, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


class OnDevice(Keeper):
    """A group of lanes on a device, trained by the trainer of the product; `saved` has the lanes' last states."""

    def __init__(
        self,
        methods: Sequence[str | type[Method]],
        device: torch.device,
        *,
        teacher: str = "vit_xs",
        student: str = "resnet_s",
        recipe: Recipe | None = None,
        precision: str = "fp32",
        stop_at: int | None = None,
        workers: int = 0,
        compile: bool = False,
    ):
        super().__init__()
        self.recipe = recipe or short_recipe(epochs=2)
        self.accelerator = make_accelerator(precision, cpu=device.type == "cpu")
        self.dataset, self.stop_at, self.workers = small_dataset(40), stop_at, workers
        self.stream = SampleStream(self.dataset, self.recipe, 0, **self._runtime().rendering)
        self.teacher = teacher_model(teacher).to(device)
        self.lanes = [self._lane(method, student, compile) for method in methods]
        self.saved: dict[str, dict] = {}

    def _runtime(self) -> Runtime:
        options = Options(workers=self.workers, checkpoint_seconds=1e9)
        return Runtime(self.accelerator, options, stop=lambda: self.stop_at is not None)

    def _lane(self, method: str | type[Method], student: str, compile: bool) -> Lane:
        kind = get_method(method) if isinstance(method, str) else method
        labels = torch.from_numpy(self.dataset.train.labels)
        net = student_model(student, CLASSES, SIZE)
        made = build_method(kind, net, self.teacher, dataset="fashion_demo", labels=labels, seed=0)
        return Lane(
            made,
            self.recipe,
            0,
            self.accelerator,
            steps_per_epoch=self.stream.steps_per_epoch,
            accumulation=self.stream.accumulation,
            label=kind.id,
            compile=compile,
        )

    def make_trainer(self) -> Trainer:
        views = [LaneView(lane.label) for lane in self.lanes]
        view = GroupView("t", "demo", 0, self.recipe.epochs, self.stream.steps_per_epoch, views)
        runtime = self._runtime()
        evaluation = EvalStream(self.dataset.test, self.dataset, self.recipe, **runtime.rendering)
        return Trainer(self.lanes, self.teacher, self.stream, evaluation, runtime, self, view)

    def run(self) -> "OnDevice":
        trainer = self.make_trainer()
        trainer.flush_every = self.stop_at or trainer.flush_every  # it looks up to stop when it reads its metrics
        trainer.run()
        return self

    def save(self, lane: Lane) -> None:
        self.saved[lane.label] = copy.deepcopy(lane.state())

    def weights(self, label: str) -> dict[str, Tensor]:
        return next(lane for lane in self.lanes if lane.label == label).method.state_dict()


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between two states of floating-point tensors."""
    floats = [name for name, value in one.items() if isinstance(value, Tensor) and value.is_floating_point()]
    pairs = [(one[name], other[name]) for name in floats]
    return max(float((a - b).abs().max()) for a, b in pairs if a.numel())


SHORT = {f"{owner}.{key}": value for owner, epochs in (("recipe", 2), ("teacher", 1))
         for key, value in (("epochs", epochs), ("global_batch", 20), ("local_batch", 20))}  # fmt: skip


def run_grid(methods: str, device: torch.device, data, store, **options: Any):
    """Return the frame of a grid that is trained on the small dataset, its teacher included."""
    return cakdbench.run(
        methods=methods,
        pairs=PAIR,
        store=store,
        recipe="demo",
        settings=SHORT,
        data_dir=data,
        teacher_files=[data / "teachers.toml"],
        cpu=device.type == "cpu",
        jobs=1,
        progress=False,
        **options,
    ).set_index("method")
