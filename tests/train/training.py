"""A small real training: real images, real timm models, the trainer of the product."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from cakdbench.build import build_method
from cakdbench.data.datasets import ImageDataset, Split, load_dataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.method import Method
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.registry import get_method
from cakdbench.train.events import Events, GroupView, LaneView, NoEvents
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Options, Runtime
from cakdbench.train.tape import Tape
from cakdbench.train.teaching import Taping
from cakdbench.train.trainer import Keeper, Trainer
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.rng import seeded

TEACHER, STUDENT = "resnet_m", "vit_xs"
SHORT = {"epochs": 2, "global_batch": 16, "local_batch": 16}


def small_dataset(train: int = 64, test: int = 40) -> ImageDataset:
    full = load_dataset("fashion_demo")
    return replace(
        full,
        train=Split(full.train.labels[:train], full.train.image),
        test=Split(full.test.labels[:test], full.test.image),
    )


def short_recipe(**changes: object) -> Recipe:
    return load_recipe("demo").override(SHORT | changes)


class Training(Keeper):
    """One group, ready to run; `saved` and `failed` collect what the trainer reports.

    Args:
        methods: ids of registered methods, or classes.
        stop_at: ask the trainer to stop when this many steps have been made.
        tape: folder of the teacher's tape.
        dataset: default: `small_dataset()`.
    """

    def __init__(
        self,
        methods: Sequence[str | type[Method]],
        recipe: Recipe | None = None,
        *,
        seed: int = 0,
        student: str = STUDENT,
        teacher: str = TEACHER,
        stop_at: int | None = None,
        checkpoint_seconds: float = 1e9,
        accelerator: Accelerator | None = None,
        tape: Path | None = None,
        dataset: ImageDataset | None = None,
    ):
        super().__init__()
        self.dataset, self.recipe = dataset or small_dataset(), recipe or short_recipe()
        self.accelerator = accelerator or make_accelerator(cpu=True)
        self.stream = SampleStream(self.dataset, self.recipe, seed)
        with seeded("teacher"):
            self.teacher = StagedModel(teacher, 10, self.recipe.image_size).eval().requires_grad_(False)
        self.lanes = [self._lane(method, seed, student) for method in methods]
        self.said: list[str] = []
        self.taping = self._taping(tape) if tape else None
        self.saved: list[tuple[str, dict]] = []
        self.view: GroupView | None = None
        self._stop_at, self._checkpoint_seconds = stop_at, checkpoint_seconds

    def _lane(self, method: str | type[Method], seed: int, student: str) -> Lane:
        kind = get_method(method) if isinstance(method, str) else method
        with seeded(seed, "student", student):
            net = StagedModel(student, 10, self.recipe.image_size)
        return Lane(
            build_method(
                kind,
                net,
                self.teacher,
                dataset="fashion_demo",
                seed=seed,
                labels=torch.as_tensor(self.dataset.train.labels),
            ),
            self.recipe,
            seed,
            self.accelerator,
            steps_per_epoch=self.stream.steps_per_epoch,
            accumulation=self.stream.accumulation,
            label=kind.id,
        )

    def _taping(self, folder: Path) -> Taping:
        self.loads = 0

        def load() -> StagedModel:
            self.loads += 1
            return self.teacher

        rows = self.stream.steps_per_epoch * self.recipe.global_batch // self.recipe.local_batch
        return Taping(Tape(folder, rows), load, self.said.append)

    def run(self, events: Events | None = None) -> "Training":
        steps = self.stream.steps_per_epoch
        self.view = GroupView("t", "demo", 0, self.recipe.epochs, steps, [LaneView(lane.label) for lane in self.lanes])
        evaluation = EvalStream(self.dataset.test, self.dataset, self.recipe)
        options = Options(checkpoint_seconds=self._checkpoint_seconds)
        runtime = Runtime(self.accelerator, options, events or NoEvents(), self._should_stop)
        teacher = None if self.taping else self.teacher
        data = self.stream, evaluation
        self.trainer = Trainer(self.lanes, teacher, *data, runtime, self, self.view, self.taping)
        self.trainer.run()
        return self

    def save(self, lane: Lane) -> None:
        lane.method.before_save()
        self.saved.append((lane.label, _copy(lane.state())))

    def _should_stop(self) -> bool:
        return self._stop_at is not None and self.view.step >= self._stop_at

    def lane(self, label: str) -> Lane:
        return next(lane for lane in self.lanes if lane.label == label)

    def weights(self, label: str) -> dict[str, torch.Tensor]:
        return self.lane(label).method.state_dict()


def _copy(state: dict) -> dict:
    """As a checkpoint would keep it: later steps do not reach it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
