"""Small models and batches the method tests share."""

import functools

import torch
from torch import nn

from cakdbench.checks.lab import CLASSES, SIZE, student_model, teacher_model
from cakdbench.method import Batch
from cakdbench.utils.rng import seeded

MINI = {
    "cnn": "resnet_s",
    "mobilenet": "mobilenet_s",
    "convnext": "convnext_m",
    "vit": "vit_xs",
    "swin": "swin_xs",
    "mixer": "mixer_xs",
    "resmlp": "resmlp_xs",
}


def student(name, classes=CLASSES, size=SIZE):
    """A fresh copy, in train mode, of the small model of that family (or of any model by its own name)."""
    return student_model(MINI.get(name, name), classes, size)


def teacher(name, classes=CLASSES, size=SIZE):
    """The same with other weights, frozen."""
    return teacher_model(MINI.get(name, name), classes, size)


def make(method, teacher, student, **config):
    """The method in training on one pair, its extra modules seeded; the training set has 40 samples."""
    with seeded("extra", method.id):
        return method(student, teacher, method.Config(**config), torch.arange(40) % CLASSES).train()


def batch_for(teacher=None, size=4, classes=CLASSES, pixels=SIZE, soft=False):
    """A batch of noise with the teacher's outputs on it, as the trainer makes it."""
    with seeded("batch", size, pixels):
        images = torch.randn(size, 3, pixels, pixels)
        target = torch.randint(classes, (size,))
    if soft:
        target = torch.nn.functional.one_hot(target, classes).float()
    outputs = None
    if teacher is not None:
        with torch.no_grad():
            outputs = teacher(images, stages=True, preacts=True, attention=True)
    return Batch(images, target, torch.arange(size), 0, 0, nn.CrossEntropyLoss(), outputs)


def gradients(loss, parameters):
    """Parameter name to gradient; None where the loss does not reach."""
    names, tensors = zip(*parameters)
    found = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)
    return dict(zip(names, found))


def reached(found):
    """Names of the parameters whose gradient exists and is not zero."""
    return {name for name, grad in found.items() if grad is not None and grad.abs().max() > 0}


def parts_of(method):
    """Names of the parameters of S up to stage 3, of S after it, of L2G, and of the rest."""
    names = {name for name, _ in method.named_parameters()}
    early = {f"student.{name}" for name in early_parameters(method.student.name)}
    inside = {name for name in names if name.startswith("student.")}
    l2g = {name for name in names if name.startswith("l2g.")}
    return {"early": early, "late": inside - early, "l2g": l2g, "rest": names - inside - l2g}


@functools.cache
def early_parameters(name):
    """Names of the parameters that a model's stage-3 feature depends on."""
    model = student(name)
    stage_3 = model(batch_for().images, stages=True).stages[2]
    return reached(gradients(stage_3.square().sum(), model.named_parameters()))
