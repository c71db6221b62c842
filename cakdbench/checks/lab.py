"""Small models, batches and lanes that methods are checked on."""

import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cakdbench.build import build_method
from cakdbench.checks.module_template import ModuleTemplate
from cakdbench.data.datasets import ImageDataset, Split, load_dataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.labels import label
from cakdbench.method import Batch, Method
from cakdbench.models.staged import ModelInfo, Output, StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.registry import resolve_config
from cakdbench.train.events import GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Runtime
from cakdbench.train.trainer import Keeper, Trainer, label_criterion
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.rng import seeded

MODELS = {"cnn": "resnet_s", "msa": "vit_xs", "mlp": "mixer_xs"}
CLASSES, SIZE, SAMPLES = 10, 64, 20


class Fault(Exception):
    """A method does not keep its contract: what is wrong, and what to do about it."""

    def __init__(self, what: str, hint: str):
        super().__init__(what)
        self.what = what
        self.hint = hint


@dataclass(frozen=True)
class Direction:
    """Kinds of teacher and student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} > {self.student}"


DIRECTIONS = [Direction(*kinds) for kinds in itertools.product(MODELS, repeat=2)]


@functools.lru_cache(maxsize=16)
def _model(name: str, classes: int, size: int, salt: str) -> ModuleTemplate[StagedModel]:
    with seeded(salt, name), torch.no_grad():
        model = StagedModel(name, classes, size)
        for parameter in model.parameters():  # timm starts some at zero, where gradients end
            parameter.add_(0.02 * torch.randn_like(parameter))
    return ModuleTemplate(model)


def student_model(name: str, classes: int = CLASSES, size: int = SIZE) -> StagedModel:
    """Return a fresh copy in train mode; all its parameters get gradients."""
    return _model(name, classes, size, "student").copy().train()


def teacher_model(name: str, classes: int = CLASSES, size: int = SIZE) -> StagedModel:
    """Return the same with other weights, frozen."""
    return _model(name, classes, size, "teacher").copy().requires_grad_(False).eval()


@functools.cache
def small_dataset(train: int = SAMPLES, test: int = 10) -> ImageDataset:
    """Return the first images of the embedded dataset."""
    full = load_dataset("fashion_demo")
    return replace(
        full,
        train=Split(full.train.labels[:train], full.train.image),
        test=Split(full.test.labels[:test], full.test.image),
    )


def short_recipe(**changes: object) -> Recipe:
    """Return a recipe of two steps of two local batches; SGD, in which rounding does not grow."""
    sgd = {"optimizer.name": "sgd", "optimizer.lr": 0.02, "optimizer.weight_decay": 1e-4}
    numbers = {
        "epochs": 1,
        "global_batch": 10,
        "local_batch": 5,
        "schedule.warmup_epochs": 0,
        "clip_grad": "none",
    } | sgd
    return load_recipe("demo").override(numbers | changes)


def _infos(direction: Direction) -> tuple[ModelInfo, ModelInfo]:
    return model_info(MODELS[direction.teacher], CLASSES, SIZE), model_info(MODELS[direction.student], CLASSES, SIZE)


@functools.lru_cache(maxsize=256)
def _config(method: type[Method], variant: str | None, direction: Direction) -> Method.Config:
    return resolve_config(method, variant, *_infos(direction), "fashion_demo")


@dataclass(frozen=True)
class Lab:
    """One method with the settings of one of its variants.

    Attributes:
        variant: of the method, in the notation of the command line.
    """

    method: type[Method]
    variant: str | None = None

    @functools.cached_property
    def trials(self) -> dict:
        """Trials that checks of this lab share, by direction: see `trial.trial`."""
        return {}

    @property
    def label(self) -> str:
        return label(self.method.id, self.variant)

    def config(self, direction: Direction) -> Method.Config:
        # mypy takes a class for unhashable where its instances have a `__hash__` of their own.
        return _config(self.method, self.variant, direction)  # type: ignore[arg-type]

    def refusal(self, direction: Direction) -> str | None:
        return self.method.refuses(*_infos(direction), self.config(direction))

    @functools.cached_property
    def accepted(self) -> list[Direction]:
        """The directions the method does not refuse."""
        return [direction for direction in DIRECTIONS if self.refusal(direction) is None]

    @property
    def some(self) -> list[Direction]:
        """Return two directions, to a CNN and to a network of tokens, from unlike teachers where there is a choice."""
        chosen = {}
        for direction in self.accepted:
            tokens = direction.student != "cnn"
            if tokens not in chosen or direction.teacher != direction.student:
                chosen[tokens] = direction
        return list(chosen.values())

    def make(self, direction: Direction, teacher: StagedModel | None = None) -> Method:
        """Return the method in train mode, its extra modules seeded."""
        teacher = teacher or teacher_model(MODELS[direction.teacher])
        student = student_model(MODELS[direction.student])
        labels = torch.from_numpy(small_dataset().train.labels)
        with seeded("extra", self.method.id):
            method = build_method(self.method, student, teacher, self.config(direction), labels=labels).train()
        method.epoch_start(0)
        return method

    def lane(self, direction: Direction, recipe: Recipe | None = None, accelerator: Accelerator | None = None) -> Lane:
        """Return the method in training as the engine trains it."""
        recipe, accelerator = recipe or short_recipe(), accelerator or make_accelerator(cpu=True)
        local = recipe.global_batch // recipe.local_batch
        teacher = teacher_model(MODELS[direction.teacher]).to(accelerator.device)
        return Lane(
            self.make(direction, teacher),
            recipe,
            0,
            accelerator,
            steps_per_epoch=SAMPLES // recipe.global_batch,
            accumulation=local // accelerator.num_processes,
            label=self.method.id,
        )


def make_batch(teacher: str | None, size: int = 4, labels: str = "hard", first: int = 0) -> Batch:
    """Return a batch of noise with all that a teacher can give on it.

    Args:
        teacher: its kind; None for a batch without a teacher's outputs.
        labels: "hard", "smoothed", "one_hot" or "mixup".
        first: index of the first sample; other batches hold other images.
    """
    index = torch.arange(first, first + size) % SAMPLES
    target = torch.from_numpy(small_dataset().train.labels)[index]
    if labels in ("one_hot", "mixup"):
        target = nn.functional.one_hot(target, CLASSES).float()
    if labels == "mixup":
        target = 0.7 * target + 0.3 * target.flip(0)
    images, outputs = copy.deepcopy(_noise(teacher, size, first))
    return Batch(images, target, index, 0, 0, _criterion(0.1 if labels == "smoothed" else 0.0), outputs)


@functools.lru_cache(maxsize=256)
def _noise(teacher: str | None, size: int, first: int) -> tuple[Tensor, Output | None]:
    """Return the images of a batch, and the teacher's outputs on them."""
    with seeded("check", first, size):
        images = torch.randn(size, 3, SIZE, SIZE)
    if teacher is None:
        return images, None
    with torch.no_grad():
        return images, teacher_model(MODELS[teacher])(images, stages=True, preacts=True, attention=True)


@functools.cache
def _criterion(smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    return label_criterion(short_recipe(label_smoothing=smoothing))


def streams(recipe: Recipe, rank: int = 0, world: int = 1) -> tuple[SampleStream, EvalStream]:
    dataset = small_dataset()
    return (
        SampleStream(dataset, recipe, 0, rank=rank, world=world),
        EvalStream(dataset.test, dataset, recipe, rank=rank, world=world),
    )


def make_trainer(lanes: list[Lane], direction: Direction, rank: int = 0, keeper: Keeper | None = None) -> Trainer:
    """Return what trains lanes to the end of their recipe in one pass; it labels them by their number."""
    accelerator, recipe = lanes[0].accelerator, lanes[0].recipe
    stream, evaluation = streams(recipe, rank, accelerator.num_processes)
    views = [LaneView(str(number)) for number, _ in enumerate(lanes)]
    for number, lane in enumerate(lanes):
        lane.label = str(number)
    view = GroupView("check", recipe.name, 0, recipe.epochs, stream.steps_per_epoch, views)
    teacher = teacher_model(MODELS[direction.teacher]).to(accelerator.device)
    return Trainer(lanes, teacher, stream, evaluation, Runtime(accelerator), keeper or Keeper(), view)


def train(lanes: list[Lane], direction: Direction, rank: int = 0) -> list[str]:
    """Train lanes to the end of their recipe in one pass; returns the reasons of those that fail."""
    trainer = make_trainer(lanes, direction, rank)
    trainer.run()
    return list(trainer.keeper.failed.values())
