"""Models and batches of the golden steps, drawn so that no other version of torch or timm draws them differently."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cakdbench.method import Batch
from cakdbench.models.staged import ModelInfo, Output, StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.train.trainer import label_criterion

MODELS = {"cnn": "resnet_s", "msa": "vit_xs", "mlp": "mixer_xs"}
CLASSES, SAMPLES = 10, 24
STEPS, STEPS_PER_EPOCH = 3, 2
EPOCHS = (0, 0, 30)
"""What the steps say of their epoch: the last one comes after every warm-up of a loss."""


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Create floating-point tensors in float64 inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@functools.cache
def recipe(local_batches: int = 2) -> Recipe:
    """Return the protocol of the steps, with this many local batches a step."""
    two = load_recipe(str(Path(__file__).with_name("recipe.toml")))
    return two.override({"global_batch": local_batches * two.local_batch})


@functools.cache
def info(kind: str) -> ModelInfo:
    return model_info(MODELS[kind], CLASSES, recipe().image_size)


def dataset_labels() -> Tensor:
    """Return the class `(N,)` of every sample of the training set."""
    return torch.from_numpy(np.random.RandomState(0).permutation(SAMPLES) % CLASSES)


@functools.cache
def _drawn(kind: str, seed: int) -> StagedModel:
    """Make a model of this kind whose parameters are all of a size, none zero and none from timm's own draws."""
    model = StagedModel(MODELS[kind], CLASSES, recipe().image_size)
    generator = np.random.RandomState(seed)  # its streams are frozen for good, unlike those of torch's initialisers
    for name, parameter in model.named_parameters():
        noise = torch.from_numpy(generator.standard_normal(parameter.shape))
        scales = name.endswith("weight") and parameter.ndim == 1  # of a norm
        spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        nn.init.constant_(parameter, float(scales))
        parameter.data.add_(spread * noise)
    return model


def student(kind: str) -> StagedModel:
    return copy.deepcopy(_drawn(kind, 1)).train()


@functools.cache
def teacher(kind: str) -> StagedModel:
    """Return the frozen teacher, one for all methods."""
    return copy.deepcopy(_drawn(kind, 2)).requires_grad_(False).eval()


def batches(kind: str, step: int, local_batches: int) -> Iterator[Batch]:
    """Yield a step's local batches and what the teacher makes of them; labels are mixed in the last step."""
    for number in range(local_batches):
        images, target, index = (tensor.clone() for tensor in _samples(step, number))
        yield Batch(
            images,
            target,
            index,
            epoch=EPOCHS[step],
            step=step % STEPS_PER_EPOCH,
            criterion=label_criterion(recipe()),
            teacher=copy.deepcopy(_taught(kind, step, number)),
            micro_batch=number,
        )


@functools.cache
def _samples(step: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    size, pixels = recipe().local_batch, recipe().image_size
    first = step * recipe().global_batch + number * size
    noise = np.random.RandomState(100 + first).standard_normal((size, 3, pixels, pixels))
    index = torch.arange(first, first + size) % SAMPLES
    target = dataset_labels()[index]
    if step == STEPS - 1:
        one_hot = nn.functional.one_hot(target, CLASSES).double()
        target = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    return torch.from_numpy(noise), target, index


@functools.cache
def _taught(kind: str, step: int, number: int) -> Output:
    with torch.no_grad():
        return teacher(kind)(_samples(step, number)[0], stages=True, preacts=True, attention=True)
