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

MODELS = {"cnn": "resnet_s", "msa": "vit_xs", "mlp": "mixer_xs", "swin": "swin_m"}
CLASSES, SAMPLES = 10, 24
SIZE, LARGE = 64, 128
"""Pixels; at the larger size the last block of a Swin's stage 3 shifts its windows, of which there are four."""
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
def info(kind: str, size: int) -> ModelInfo:
    return model_info(MODELS[kind], CLASSES, size)


def dataset_labels() -> Tensor:
    """Return the class `(N,)` of every sample of the training set."""
    return torch.from_numpy(np.random.RandomState(0).permutation(SAMPLES) % CLASSES)


@functools.cache
def _drawn(kind: str, size: int, seed: int) -> StagedModel:
    """Make a model of this kind whose parameters are all of a size, none zero and none from timm's own draws."""
    with float64():
        model = StagedModel(MODELS[kind], CLASSES, size)
    generator = np.random.RandomState(seed)  # its streams are frozen for good, unlike those of torch's initialisers
    for name, parameter in model.named_parameters():
        noise = torch.from_numpy(generator.standard_normal(parameter.shape))
        scales = name.endswith("weight") and parameter.ndim == 1  # of a norm
        spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        nn.init.constant_(parameter, float(scales))
        parameter.data.add_(spread * noise)
    return model


def student(kind: str, size: int, seed: int = 1) -> StagedModel:
    return copy.deepcopy(_drawn(kind, size, seed)).train()


@functools.cache
def teacher(kind: str, size: int) -> StagedModel:
    """Return the frozen teacher, one for all methods."""
    return copy.deepcopy(_drawn(kind, size, 2)).requires_grad_(False).eval()


def batches(kind: str, size: int, step: int, local_batches: int) -> Iterator[Batch]:
    """Yield a step's local batches and what the teacher makes of them; labels are mixed in the last step."""
    for number in range(local_batches):
        images, target, index = (tensor.clone() for tensor in _samples(size, step, number))
        yield Batch(
            images,
            target,
            index,
            epoch=EPOCHS[step],
            step=step % STEPS_PER_EPOCH,
            criterion=label_criterion(recipe()),
            teacher=copy.deepcopy(_taught(kind, size, step, number)),
            micro_batch=number,
        )


@functools.cache
def _samples(size: int, step: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    count = recipe().local_batch
    first = step * recipe().global_batch + number * count
    noise = np.random.RandomState(100 + first).standard_normal((count, 3, size, size))
    index = torch.arange(first, first + count) % SAMPLES
    target = dataset_labels()[index]
    if step == STEPS - 1:
        one_hot = nn.functional.one_hot(target, CLASSES).double()
        target = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    return torch.from_numpy(noise), target, index


@functools.cache
def _taught(kind: str, size: int, step: int, number: int) -> Output:
    return teach(kind, _samples(size, step, number)[0])


@torch.no_grad()
def teach(kind: str, images: Tensor) -> Output:
    return teacher(kind, images.shape[-1])(images, stages=True, preacts=True, attention=True)
