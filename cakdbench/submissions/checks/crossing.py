"""Checks of entries against entry other."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import TypeVar

import numpy as np

from cakdbench.grid.plan import ALWAYS
from cakdbench.records import Identity, Record, TeacherIdentity
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.case import model_of
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.status import AcceptedTeacher

K = TypeVar("K", bound=Hashable)
TeacherName = tuple[str, str, int]
"""Model, dataset and image size."""

FEW_CLASSES = 3
"""Students that predict fewer classes than this have collapsed, and may well agree."""


def cross_checks(entries: list[EntryFile], teachers: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """Run all of them on the entries of a results folder."""
    yield from check_seeds(entries)
    yield from check_copies(entries)
    yield from check_weights(entries, teachers)
    yield from check_trained_teachers(entries)
    yield from check_baselines(entries)


def check_seeds(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that a method is run once on a pair, by a recipe, with a seed."""
    for group in _alike(entries, _cell).values():
        for entry in group[1:] if len(group) > 1 else ():
            seed, other = entry.record.identity.seed, group[0].file
            what = f"duplicate seed: {other} is a run of the same method, pair and recipe with seed {seed}"
            yield Finding(entry.file, Problem(what, "submit one run of a seed"))


def _alike(entries: Iterable[EntryFile], key: Callable[[EntryFile], K]) -> dict[K, list[EntryFile]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def _cell(entry: EntryFile) -> str:
    """Return the run without its code, its teacher's weights and the copy of its data."""
    return _without(
        entry,
        "engine_version",
        "method.version",
        "method.source",
        "dataset.fingerprint",
        "teacher.sha256",
        "teacher.statistics",
    )


def _without(entry: EntryFile, *left_out: str) -> str:
    """Return the identity as JSON, without some of its fields."""
    values = entry.record.identity.model_dump(mode="json")
    for name in left_out:
        table, _, field = name.rpartition(".")
        holder = values[table] if table else values
        if holder is not None:
            del holder[field]
    return json.dumps(values, sort_keys=True)


def check_copies(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that no two runs end in the same weights or predictions."""
    for name in ("weights_sha256", "predictions_sha256"):
        for group in _alike(entries, attrgetter(f"record.{name}")).values():
            first = group[0]
            if name == "predictions_sha256" and len(np.unique(first.predictions)) < FEW_CLASSES:
                continue
            for entry in group[1:]:
                if entry.record.identity != first.record.identity:
                    what = f"copied run: it has the {name.partition('_')[0]} of {first.file}"
                    yield Finding(entry.file, Problem(what, "submit every run once, under its own name"))


def check_weights(entries: list[EntryFile], accepted: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """Check that all entries on a teacher were taught by the same weights.

    These are the accepted ones; before any are, those of the runs that trained it; else the most used.
    """
    known: dict[TeacherName, set[str]] = defaultdict(set)
    for line in accepted:
        known[line.model, line.dataset, line.image_size].add(line.sha256)
    trained = _alike(entries, _training_name)
    taught = [entry for entry in entries if entry.record.identity.teacher]
    for name, group in _alike(taught, lambda entry: teacher_name(entry.record.identity)).items():
        for entry in group:
            runs = {run.record.weights_sha256 for run in trained.get(_trained_by(entry.record), ())}
            allowed = known.get(name) or runs or _most_used(group)
            sha256 = teacher_of(entry.record.identity).sha256
            if sha256 not in allowed:
                what = f"other teacher: its weights {sha256[:16]} of {name[0]} are not those of the other entries"
                others = ", ".join(sorted(other[:16] for other in allowed)) or "none has a majority"
                problem = Problem(f"{what} ({others})", "train with the accepted weights: see RULES.md")
                yield Finding(entry.file, problem)


def _training_name(entry: EntryFile) -> tuple[str, str, str] | None:
    """Return the teacher a run may have trained: model, dataset, and the recipe as the teachers' records name it."""
    record = entry.record
    if record.identity.method.id != ALWAYS[0] or record.identity.seed:
        return None
    return record.identity.student, record.identity.dataset.name, f"trained by {record.recipe_name}"


def _trained_by(record: Record) -> tuple[str, str, str]:
    source = record.teacher.source if record.teacher else ""
    return model_of(teacher_of(record.identity).model), record.identity.dataset.name, source


def teacher_of(identity: Identity) -> TeacherIdentity:
    """Return the teacher of a run that has one."""
    assert identity.teacher is not None
    return identity.teacher


def teacher_name(identity: Identity) -> TeacherName:
    """Return the things that decide a teacher's weights: model, dataset and image size."""
    size = identity.recipe.get("image_size")
    return teacher_of(identity).model, identity.dataset.name, size if isinstance(size, int) else 0


def _most_used(group: list[EntryFile]) -> set[str]:
    counts = Counter(teacher_of(entry.record.identity).sha256 for entry in group)
    best = max(counts.values())
    winners = {sha256 for sha256, count in counts.items() if count == best}
    return winners if len(winners) == 1 else set()


def check_trained_teachers(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that a teacher is expected to reach what the run that trained it reached, where that run is here."""
    trainings = {e.record.weights_sha256: e for e in entries if e.record.identity.method.id == ALWAYS[0]}
    for entry in entries:
        identity, facts = entry.record.identity, entry.record.teacher
        training = trainings.get(identity.teacher.sha256) if identity.teacher else None
        if training is None or facts is None:
            continue
        record = training.record
        if model_of(teacher_of(identity).model) != record.identity.student:
            what = f"other teacher: its weights are those of {record.identity.student}, trained in {training.file}"
            yield Finding(entry.file, Problem(what))
        elif facts.source.startswith("trained by") and facts.expected != record.result.top1:
            what = (
                f"expects {facts.expected} % of its teacher, whose own run {training.file} has {record.result.top1} %"
            )
            yield Finding(entry.file, Problem(what))


def check_baselines(entries: list[EntryFile]) -> Iterator[Finding]:
    """Note entries without a scratch student of the same recipe and seed: a gain needs one."""
    scratch = {_student(entry) for entry in entries if entry.record.identity.method.id == ALWAYS[0]}
    for entry in entries:
        if entry.record.identity.method.id != ALWAYS[0] and _student(entry) not in scratch:
            what = f"no {ALWAYS[0]} run of its student, recipe and seed is here: boards cannot give its gain"
            yield Finding(entry.file, Problem(what, f"submit the {ALWAYS[0]} run too", note=True))


def _student(entry: EntryFile) -> str:
    return _without(entry, "method", "teacher", "engine_version")
