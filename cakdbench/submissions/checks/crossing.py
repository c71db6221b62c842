"""Checks of entries against each other."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import TypeVar

import numpy as np

from cakdbench.grid.plan import ALWAYS
from cakdbench.records import Identity, TeacherIdentity
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.case import model_of
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.status import AcceptedTeacher

FEW_IMAGES = 500
"""Two students that agree on 98 % of images each for itself agree on all of as many with a chance of 0.00004."""
K = TypeVar("K", bound=Hashable)

SCRATCH = ALWAYS[0]
FEW_CLASSES = 3
"""Students that predict fewer classes than this have collapsed, and may well agree."""
CODE_AND_FILES = (
    *("engine_version", "method.version", "method.source"),
    *("dataset.fingerprint", "teacher.sha256", "teacher.statistics"),
)
"""Parts of an identity that two runs of one cell may differ in."""


def cross_checks(entries: list[EntryFile], teachers: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """Run all of them on the entries of a results folder."""
    yield from check_seeds(entries)
    yield from check_copies(entries)
    yield from check_weights(entries, teachers)
    yield from check_trained_teachers(entries)
    yield from check_baselines(entries)


def check_seeds(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that a method is run once on a pair, by a recipe, with a seed."""
    for first, *others in _alike(entries, lambda entry: _without(entry, *CODE_AND_FILES)).values():
        for entry in others:
            run = f"a run of the same method, pair and recipe with seed {entry.identity.seed}"
            yield Finding(entry.file, Problem(f"duplicate seed: {first.file} is {run}", "submit one run of a seed"))


def _alike(entries: Iterable[EntryFile], key: Callable[[EntryFile], K]) -> dict[K, list[EntryFile]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def _without(entry: EntryFile, *left_out: str) -> str:
    """Return the identity as JSON, without some of its fields."""
    values = entry.identity.model_dump(mode="json")
    for name in left_out:
        table, _, field = name.rpartition(".")
        holder = values[table] if table else values
        if holder is not None:
            del holder[field]
    return json.dumps(values, sort_keys=True)


def check_copies(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that no two runs end in the same weights or predictions."""
    for name in ("weights_sha256", "predictions_sha256"):
        for first, *others in _alike(entries, attrgetter(f"record.{name}")).values():
            if name == "predictions_sha256" and _may_agree(first.predictions):
                continue
            for entry in others:
                if entry.identity != first.identity:
                    what = f"copied run: it has the {name.partition('_')[0]} of {first.file}"
                    yield Finding(entry.file, Problem(what, "submit every run once, under its own name"))


def _may_agree(predictions: np.ndarray) -> bool:
    """Return True where two honest runs may well predict the same: on a handful of images, or in collapse."""
    return len(predictions) < FEW_IMAGES or len(np.unique(predictions)) < FEW_CLASSES


def check_weights(entries: list[EntryFile], accepted: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """Check that all entries on a teacher were taught by the same weights.

    These are the accepted ones; before any are, those of the runs that trained it; else the most used.
    """
    known: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for line in accepted:
        known[line.model, line.dataset, line.image_size].add(line.sha256)
    trained = _alike(entries, _training)
    taught = [entry for entry in entries if entry.identity.teacher]
    for name, group in _alike(taught, lambda entry: teacher_name(entry.identity)).items():
        counts = Counter(teacher_of(entry.identity).sha256 for entry in group)
        most = {sha256 for sha256, count in counts.items() if count == max(counts.values())}
        for entry in group:
            source = entry.record.teacher.source if entry.record.teacher else ""
            training = model_of(name[0]), entry.identity.dataset.name, source
            runs = {run.record.weights_sha256 for run in trained.get(training, ())}
            allowed = known.get(name) or runs or (most if len(most) == 1 else set())
            sha256 = teacher_of(entry.identity).sha256
            if sha256 not in allowed:
                what = f"other teacher: its weights {sha256[:16]} of {name[0]} are not those of the other entries"
                others = ", ".join(sorted(other[:16] for other in allowed)) or "none has a majority"
                yield Finding(
                    entry.file, Problem(f"{what} ({others})", "train with the accepted weights: see RULES.md")
                )


def _training(entry: EntryFile) -> tuple[str, str, str] | None:
    """Return the teacher a run may have trained: model, dataset, and the recipe as the teachers' records name it."""
    if entry.identity.method.id != SCRATCH or entry.identity.seed:
        return None
    return entry.identity.student, entry.identity.dataset.name, f"trained by {entry.record.recipe_name}"


def teacher_of(identity: Identity) -> TeacherIdentity:
    """Return the teacher of a run that has one."""
    assert identity.teacher is not None
    return identity.teacher


def teacher_name(identity: Identity) -> tuple[str, str, int]:
    """Return the things that decide a teacher's weights: model, dataset and image size."""
    size = identity.recipe.get("image_size")
    return teacher_of(identity).model, identity.dataset.name, size if isinstance(size, int) else 0


def check_trained_teachers(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that a teacher is expected to reach what the run that trained it reached, where that run is here."""
    trainings = {e.record.weights_sha256: e for e in entries if e.identity.method.id == SCRATCH}
    for entry in entries:
        teacher, facts = entry.identity.teacher, entry.record.teacher
        training = trainings.get(teacher.sha256) if teacher and facts else None
        if not (teacher and facts and training):
            continue
        student, top1 = training.identity.student, training.record.result.top1
        if model_of(teacher.model) != student:
            what = f"other teacher: its weights are those of {student}, trained in {training.file}"
            yield Finding(entry.file, Problem(what))
        elif facts.source.startswith("trained by") and facts.expected != top1:
            what = f"expects {facts.expected} % of its teacher, whose own run {training.file} has {top1} %"
            yield Finding(entry.file, Problem(what))


def check_baselines(entries: list[EntryFile]) -> Iterator[Finding]:
    """Note entries without a scratch student of the same recipe and seed: a gain needs one."""
    students = {entry.file: _without(entry, "method", "teacher", "engine_version") for entry in entries}
    scratch = {students[entry.file] for entry in entries if entry.identity.method.id == SCRATCH}
    for file, student in students.items():
        if student not in scratch:
            what = f"no {SCRATCH} run of its student, recipe and seed is here: boards cannot give its gain"
            yield Finding(file, Problem(what, f"submit the {SCRATCH} run too", note=True))
