"""Checks of single steps: losses, gradients, labels, batch sizes, what is read of the teacher."""

import copy
import math
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from cakdbench.checks.lab import DIRECTIONS, MODELS, Fault, Lab, make_batch, student_model, teacher_model
from cakdbench.method import Method, Step
from cakdbench.models.staged import Output
from cakdbench.randomness import seeded
from cakdbench.registry import resolve_config


def step(method: Method, batch, autocast: bool = False) -> Step:
    """One forward pass with the randomness the engine would give it."""
    with seeded("check step"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return method(batch)


def backward(method: Method, made: Step) -> None:
    method.zero_grad(set_to_none=True)
    sum((*made.losses.values(), *made.adversary.values())).backward()


def described(lab: Lab) -> str:
    method = lab.method
    if not (method.__doc__ and method.Config.__doc__):
        raise Fault("the class or its Config has no docstring", "say in one line what the method does")
    for name in ("title", "paper"):
        if not getattr(method, name):
            raise Fault(f"no {name}", f"give @register(..., {name}=...)")
    for variant in (None, *method.variants):
        infos = [_info(kind) for kind in ("cnn", "msa")]
        resolve_config(method, variant, *infos, "fashion_demo")
    return f"{len(fields(method.Config))} settings, {len(method.variants)} variants"


def _info(kind: str):
    return teacher_model(MODELS[kind]).info


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
    """Losses and gradients are finite, in fp32 or under bf16 autocast, on every direction it takes."""

    def check(lab: Lab) -> str:
        for direction in lab.accepted:
            teacher = teacher_model(MODELS[direction.teacher])
            method = lab.make(direction, teacher)
            made = step(method, make_batch(teacher), autocast)
            _check_losses(made, str(direction))
            backward(method, made)
            for name, parameter in method.named_parameters():
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    raise Fault(
                        f"{direction}: the gradient of {name} is not finite",
                        "look for sqrt, log or a division at 0, and decorate the loss with @full_precision",
                    )
        return f"{len(lab.accepted)} directions"

    return check


def _check_losses(made: Step, where: str) -> None:
    if not isinstance(made, Step) or not made.losses:
        raise Fault(f"{where}: distill_step gave {type(made).__name__}", "return Step(logits, {name: scalar, ...})")
    for name, loss in (made.losses | made.adversary).items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise Fault(f"{where}: loss {name!r} is no scalar", "reduce it, by .mean() for example")
        if not math.isfinite(loss.item()):
            raise Fault(
                f"{where}: loss {name!r} is {loss.item()}", "use log_softmax, clamp before sqrt, @full_precision"
            )


def trains_the_student_alone(lab: Lab) -> str:
    """Every student parameter gets a gradient; the teacher gets none and does not change."""
    for direction in lab.accepted:
        teacher = teacher_model(MODELS[direction.teacher])
        before = copy.deepcopy(teacher.state_dict())
        method = lab.make(direction, teacher)
        batch = make_batch(teacher)
        backward(method, step(method, batch))
        missing = [name for name, p in method.student.named_parameters() if p.grad is None or not p.grad.any()]
        if missing:
            raise Fault(
                f"{direction}: no gradient reaches student.{missing[0]} ({len(missing)} in all)",
                "let a loss depend on the student's logits, and do not detach them",
            )
        if any(p.grad is not None or p.requires_grad for p in teacher.parameters()):
            raise Fault(f"{direction}: the teacher got a gradient", "leave the teacher's requires_grad alone")
        if teacher.training or any(not torch.equal(before[name], v) for name, v in teacher.state_dict().items()):
            raise Fault(f"{direction}: the teacher changed", "never call train() on it, nor write to it")
    return f"{len(lab.accepted)} directions"


def label_forms(lab: Lab) -> str:
    """Class indices, smoothed and mixed labels; one-hot labels give what class indices give."""
    for direction in lab.some:
        teacher, totals = teacher_model(MODELS[direction.teacher]), {}
        for form in ("hard", "smoothed", "one_hot", "mixup"):
            made = step(lab.make(direction, teacher), make_batch(teacher, labels=form))
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
        teacher = teacher_model(MODELS[direction.teacher])
        method = lab.make(direction, teacher)
        for size in (4, 3, 2, 5):
            made = step(method, make_batch(teacher, size))
            _check_losses(made, f"{direction}, batch of {size}")
            backward(method, made)
            method.step_end()
    return "4, 3, 2, 5, one after the other"


class Watched(Output):
    """An output that notes which of its fields are read."""

    def __getattribute__(self, name):
        if name in object.__getattribute__(self, "__dataclass_fields__"):
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)


def needs(lab: Lab) -> str:
    """What the method declares to need of the teacher is what it uses."""
    declared, used = set(), set()
    for direction in lab.accepted:
        teacher = teacher_model(MODELS[direction.teacher])
        method = lab.make(direction, teacher)
        declared |= method.needs
        batch = make_batch(teacher)
        if batch.teacher is not None:
            watched = Watched(**vars(batch.teacher))
            object.__setattr__(watched, "read", set())
            batch.teacher = watched
        calls: list[str] = []
        hooks = [module.register_forward_pre_hook(lambda *_: calls.append("")) for module in teacher.net.modules()]
        step(method, batch)
        for hook in hooks:
            hook.remove()
        used |= object.__getattribute__(batch.teacher, "read") | ({"model"} if calls else set())
    if used - declared:
        raise Fault(
            f"uses {_listed(used - declared)} of the teacher, and does not declare it",
            f"set needs = frozenset({sorted(used)})",
        )
    if declared - used:
        raise Fault(
            f"declares to need {_listed(declared - used)}, and never uses it",
            f"set needs = frozenset({sorted(used)}): what is not needed is not computed",
        )
    return _listed(used) or "nothing of the teacher"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def keeps_seeds(lab: Lab) -> str:
    """The method leaves the global seeds alone."""
    direction = lab.some[0]
    teacher = teacher_model(MODELS[direction.teacher])
    torch.manual_seed(1234)
    method = lab.method(
        lab.make(direction, teacher).student,
        teacher if lab.method.needs else None,
        lab.config(direction),
        torch.arange(40) % 10,
    )
    method.train()(make_batch(teacher))
    if torch.initial_seed() != 1234:
        raise Fault("it seeds torch's generator", "remove the seeding: the engine seeds every step for every lane")
    return "not touched"


def export(lab: Lab) -> str:
    """The exported student is the plain timm model, with no trace of the method."""
    for direction in lab.some:
        teacher = teacher_model(MODELS[direction.teacher])
        method = lab.make(direction, teacher)
        backward(method, step(method, make_batch(teacher)))
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
