"""Checks of single steps: losses, gradients, labels, batch sizes, what is read of the teacher."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from cakdbench.build import build_method
from cakdbench.checks.lab import (
    CLASSES,
    DIRECTIONS,
    MODELS,
    SAMPLES,
    Direction,
    Fault,
    Lab,
    make_batch,
    student_model,
    teacher_model,
)
from cakdbench.checks.trial import Trial, backward, step, trial
from cakdbench.method import Method, Step, step_fault, sum_losses
from cakdbench.models.staged import StagedModel
from cakdbench.registry import setting_docs
from cakdbench.train.lane import parameters_of
from cakdbench.utils.rng import seeded


def described(lab: Lab) -> str:
    method = lab.method
    if not method.__doc__:
        raise Fault("the class has no docstring", "say in one line what the method does")
    silent = [field.name for field in fields(method.Config) if not setting_docs(method.Config).get(field.name)]
    if silent:
        raise Fault(f"the setting {silent[0]} is not explained", "add it to `Attributes:` in Config's docstring")
    for name in ("title", "paper"):
        if not getattr(method, name):
            raise Fault(f"no {name}", f"give @register(..., {name}=...)")
    for variant in (None, *method.variants):
        replace(lab, variant=variant).config(Direction("cnn", "msa"))
    return f"{len(fields(method.Config))} settings, {len(method.variants)} variants"


def refusals(lab: Lab) -> str:
    reasons = {direction: lab.refusal(direction) for direction in DIRECTIONS}
    for direction, reason in reasons.items():
        if reason is not None and len(str(reason).split()) < 4:
            raise Fault(f"{direction} is refused with {reason!r}", "let refuses() say why, and what to use instead")
    if not lab.accepted:
        raise Fault("every direction is refused", f"for {DIRECTIONS[0]} the reason is: {reasons[DIRECTIONS[0]]}")
    refused = [str(direction) for direction, reason in reasons.items() if reason]
    return "takes all nine directions" if not refused else f"refuses {', '.join(refused)}, with reasons"


def finite(autocast: bool) -> Callable[[Lab], str]:
    """Return the check that losses and gradients are finite, in fp32 or under bf16 autocast, on every direction."""

    def check(lab: Lab) -> str:
        for direction in lab.accepted:
            tried = Trial(lab, direction, autocast) if autocast else trial(lab, direction)
            _check_losses(tried.made, str(direction), tried.size)
            for name, grad in tried.grads.items():
                if grad is not None and not grad.isfinite().all():
                    raise Fault(
                        f"{direction}: the gradient of {name} is not finite",
                        "look for sqrt, log or a division at 0, and decorate the loss with @force_fp32",
                    )
        return f"{len(lab.accepted)} directions"

    return check


def _check_losses(made: Step, where: str, size: int = 4) -> None:
    if fault := step_fault(made, size, CLASSES):
        raise Fault(f"{where}: {fault[0]}", fault[1])
    for name, loss in made.everything.items():
        if not math.isfinite(loss.item()):
            raise Fault(f"{where}: loss {name!r} is {loss.item()}", "use log_softmax, clamp before sqrt, @force_fp32")


def trains_the_student_alone(lab: Lab) -> str:
    """Check that every student parameter gets a gradient; the teacher gets none and does not change."""
    for direction in lab.accepted:
        tried = trial(lab, direction)
        grads = {name: grad for name, grad in tried.grads.items() if name.startswith("student.")}
        missing = [name for name, grad in grads.items() if grad is None or not grad.any()]
        if missing:
            raise Fault(
                f"{direction}: no gradient reaches {missing[0]} ({len(missing)} in all)",
                "let a loss depend on the student's logits, and do not detach them",
            )
        if any(p.grad is not None or p.requires_grad for p in tried.teacher.parameters()):
            raise Fault(f"{direction}: the teacher got a gradient", "leave the teacher's requires_grad alone")
        if tried.teacher_changed():
            raise Fault(f"{direction}: the teacher changed", "never call train() on it, nor write to it")
    return f"{len(lab.accepted)} directions"


def variants(lab: Lab) -> str:
    """Check that every variant makes a step with finite losses on the first direction it takes."""
    refused = 0
    for name in lab.method.variants:
        variant = replace(lab, variant=name)
        direction = next((d for d in DIRECTIONS if variant.refusal(d) is None), None)
        if direction is None:  # the small models need not suit every variant
            refused += 1
            continue
        _check_losses(step(variant.make(direction), make_batch(direction.teacher)), variant.label)
    stepped = f"{len(lab.method.variants) - refused} variants"
    return f"{stepped}; {refused} refuse these small models" if refused else stepped


def adversary(lab: Lab) -> str:
    """Check that an adversary's losses depend on its own parameters alone, and that no other loss trains it."""
    opposed = 0
    for direction in lab.accepted:
        tried = trial(lab, direction)
        method, made = tried.method, tried.made
        own = {id(p) for p in parameters_of(*method.extra_optimizers())}
        if not own and direction != lab.accepted[0]:
            continue
        if own & {id(p) for p in method.student.parameters()}:
            raise Fault("extra_optimizers() hold parameters of the student", "leave the student to the recipe")
        theirs, ours = _by_owner(method, own)
        for losses, others in ((made.adversary, ours), (made.losses, theirs)):
            reached = _reached(losses, others)
            if reached:
                raise Fault(
                    f"{direction}: {', '.join(losses)} reach {reached[0]}",
                    "detach what the adversary is given, and run it with detached parameters for the student's loss",
                )
        opposed += bool(own)
    return f"{opposed} directions have one" if opposed else "there is none"


def _by_owner(method: Method, own: set[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained parameters by name: the adversary's, and all others."""
    trained: dict[str, Tensor] = {name: p for name, p in method.named_parameters() if p.requires_grad}
    theirs = {name: p for name, p in trained.items() if id(p) in own}
    return theirs, {name: p for name, p in trained.items() if name not in theirs}


def _reached(losses: dict[str, Tensor], parameters: dict[str, Tensor]) -> list[str]:
    if not losses or not parameters:
        return []
    grads = torch.autograd.grad(sum_losses(losses), list(parameters.values()), allow_unused=True, retain_graph=True)
    return [name for name, grad in zip(parameters, grads) if grad is not None]


def label_forms(lab: Lab) -> str:
    """Check class indices, smoothed and mixed labels; one-hot labels give what class indices give."""
    for direction in lab.some:
        teacher, totals = teacher_model(MODELS[direction.teacher]), {}
        for form in ("hard", "smoothed", "one_hot", "mixup"):
            made = step(lab.make(direction, teacher), make_batch(direction.teacher, labels=form))
            _check_losses(made, f"{direction}, {form} labels")
            totals[form] = made.total.item()
        if not math.isclose(totals["hard"], totals["one_hot"], rel_tol=1e-4, abs_tol=1e-5):
            raise Fault(
                f"{direction}: {totals['hard']:.6g} with class indices, {totals['one_hot']:.6g} with one-hot labels",
                "use batch.hard_target where you need class indices, batch.label_loss(logits) for the label loss",
            )
    return "indices, smoothed, one-hot, mixup"


def batch_sizes(lab: Lab) -> str:
    for direction in lab.some:
        method = lab.make(direction)
        for size in (4, 3, 2, 5):
            made = step(method, make_batch(direction.teacher, size))
            _check_losses(made, f"{direction}, batch of {size}", size)
            backward(method, made)
            method.step_end()
    return "4, 3, 2, 5, one after the other"


def needs(lab: Lab) -> str:
    """Check that the method uses of the teacher what it declares on every direction, and all of it on some."""
    declared: set[str] = set()
    used: set[str] = set()
    for direction in lab.accepted:
        method, here = trial(lab, direction).method, trial(lab, direction).used
        if here - method.needs:
            raise Fault(
                f"{direction}: uses {_listed(here - method.needs)} of the teacher, and does not declare it",
                f"set needs = frozenset({sorted(here | method.needs)})",
            )
        declared |= method.needs
        used |= here
    if declared - used:
        raise Fault(
            f"declares to need {_listed(declared - used)}, and never uses it",
            f"set needs = frozenset({sorted(used)}): what is not needed is not computed",
        )
    return _listed(used) or "nothing of the teacher"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def keeps_seeds(lab: Lab) -> str:
    """Check that building and stepping leaves no generator in a state of the method's choice."""
    direction = lab.some[0]
    teacher = teacher_model(MODELS[direction.teacher])
    ends = [_generators(lab, direction, teacher, salt) for salt in ("one", "other")]
    fixed = [name for name in ends[0] if ends[0][name] == ends[1][name]]
    if fixed:
        raise Fault(f"it seeds {fixed[0]}", "remove the seeding: the engine seeds every step for every lane")
    return "python, numpy, torch: not touched"


def _generators(lab: Lab, direction: Direction, teacher: StagedModel, salt: str) -> dict[str, str]:
    """Return the states of the generators after a build and a step that began with seeds made of `salt`."""
    with seeded("check seeds", salt):
        student, labels = student_model(MODELS[direction.student]), torch.arange(SAMPLES) % CLASSES
        method = build_method(lab.method, student, teacher, lab.config(direction), labels=labels).train()
        method.epoch_start(0)
        method(make_batch(direction.teacher))
        states = (
            random.getstate(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
            torch.get_rng_state().tolist(),
        )
        return dict(zip(("Python's random", "numpy", "torch"), map(str, states)))


def export(lab: Lab) -> str:
    """Check that the exported student is the plain timm model, with no trace of the method."""
    for direction in lab.some:
        method = lab.make(direction)
        backward(method, step(method, make_batch(direction.teacher)))
        student, plain = method.student.eval(), student_model(MODELS[direction.student]).eval()
        state = student.export_state()
        if state.keys() != plain.export_state().keys():
            extra = sorted(state.keys() ^ plain.export_state().keys())
            raise Fault(f"{direction}: the student's state has {extra[0]} more or less", _OWN)
        plain.load_exported(state)
        images = make_batch(None).images
        with torch.no_grad():
            if not torch.equal(plain(images).logits, student(images).logits):
                raise Fault(f"{direction}: the student alone gives other logits", _OWN)
        hooked = [name for name, m in student.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        if hooked:
            raise Fault(f"{direction}: a hook stays on student.{hooked[0]}", "use student(images, stages=True)")
    return "equals the plain timm model"


_OWN = "keep your modules on the method, not on the student, and do not patch the student"
