"""The gate before training: a teacher that is not what its entry says teaches nobody."""

from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import EvalStream
from cakdbench.engine.teachers import Teacher
from cakdbench.recipes import Recipe
from cakdbench.records import TeacherFacts
from cakdbench.train.evaluate import evaluate
from cakdbench.train.runtime import Runtime
from cakdbench.utils.errors import TeacherError

NEAR_CHANCE = 1.5
"""A teacher of whom nothing is stated must be right this many times as often as one that guesses."""


def verify_teacher(teacher: Teacher, dataset: ImageDataset, recipe: Recipe, runtime: Runtime) -> TeacherFacts:
    """Evaluate a teacher on the test set as the students will be, before any of them trains.

    One that is near chance, as trained here or by its entry's word, is told of; so is the mean of several, each of
    whom has been verified by itself.

    Raises:
        TeacherError: its outputs are not finite; or its accuracy is not the expected one, or near chance where none is
            stated, and `Options.allow_teacher_mismatch` is off.
    """
    model = teacher.model.to(runtime.accelerator.device)
    test = EvalStream(dataset.test, dataset, recipe, **runtime.rendering)
    evaluation = evaluate(model, test, runtime.accelerator)
    name = f"the teacher {model.name} on {dataset.name} ({teacher.source})"
    if not evaluation.finite:
        raise TeacherError(f"{name} gives outputs that are not finite; no student was trained: replace its weights")
    chance = f"guessing reaches {100 / dataset.num_classes:.2f} %" * _near_chance(evaluation.top1, dataset)
    wrong = _mismatch(teacher, evaluation.top1, chance)
    if chance and not wrong:
        runtime.events.say(f"{name} reaches {evaluation.top1:.2f} %, and {chance}: it has little to teach")
    if wrong and not runtime.options.allow_teacher_mismatch:
        raise TeacherError(
            f"{name} reaches {evaluation.top1:.2f} %, {wrong}; no student was trained. Check the weights, the image "
            "transform and the order of its classes (classes = [...] in its entry), or accept and record it with "
            "--allow-teacher-mismatch"
        )
    return TeacherFacts(
        measured=evaluation.top1,
        expected=teacher.expected,
        tolerance=teacher.tolerance,
        source=teacher.source,
        mismatch_allowed=bool(wrong),
        standard=teacher.standard,
        measured_top5=evaluation.top5,
    )


def _near_chance(measured: float, dataset: ImageDataset) -> bool:
    return measured < NEAR_CHANCE * 100 / dataset.num_classes


def _mismatch(teacher: Teacher, measured: float, chance: str) -> str:
    """Return what is wrong with an accuracy in percent; empty if it is as expected.

    Args:
        chance: what guessing reaches, of an accuracy near it.
    """
    if teacher.expected is None:
        return f"and {chance}" if chance and not teacher.model.info.members else ""
    off = abs(measured - teacher.expected) > teacher.tolerance + 1e-6
    return f"its entry says {teacher.expected:.2f} % (tolerance {teacher.tolerance})" * off
