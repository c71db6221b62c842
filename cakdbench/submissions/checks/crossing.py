"""Checks of entries against each other.

Where two clash, the newcomer is to blame; of two that are equally old, both are: who copied whom is not for a
program to say.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TypeVar

import networkx
import numpy as np

from cakdbench.grid.plan import ALWAYS
from cakdbench.grid.teachers import RUN_SOURCE, zoo_model
from cakdbench.records import Identity, TeacherIdentity
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.teachers import registry_entry
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.status import TeacherName
from cakdbench.utils.diff import exact_text

FEW_IMAGES = 500
"""Two students that agree on 98 % of images each for itself agree on all of as many with a chance of 0.00004."""
K = TypeVar("K", bound=Hashable)
ACCEPTED, OF_THE_BASE, NEW, REFUSED = range(4)
Age = Callable[[EntryFile], int]
"""Tells which entries go before others where they clash: one of the four above, the least first."""

SCRATCH = ALWAYS[0]
FEW_CLASSES = 3
"""Students that predict fewer classes than this have collapsed, and may well agree."""
CODE_AND_FILES = (
    *("engine_version", "method.version", "method.source", "student_source"),
    *("dataset.fingerprint", "dataset.skipped"),
    *("teacher.sha256", "teacher.statistics", "teacher.image_size", "teacher.source"),
)
"""Parts of an identity that two runs of one cell may differ in."""


def cross_checks(entries: list[EntryFile], teachers: Mapping[TeacherName, str], age: Age) -> Iterator[Finding]:
    """Run all of them on the entries of a results folder.

    Args:
        teachers: the accepted sha256 of each teacher.
    """
    yield from check_seeds(entries, age)
    yield from check_copies(entries, age)
    yield from check_weights(entries, teachers, age)
    yield from check_trained_teachers(entries, age)
    yield from check_run_teachers(entries)
    yield from check_circles(entries, age)
    yield from check_baselines(entries)


def alike(entries: Iterable[EntryFile], key: Callable[[EntryFile], K]) -> dict[K, list[EntryFile]]:
    """Return the entries in groups of one key."""
    groups = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def blamed(group: list[EntryFile], age: Age) -> Iterator[tuple[EntryFile, EntryFile]]:
    """Yield the entries of a clash that are to blame, each with one that it clashes with."""
    oldest, second, *_ = sorted(group, key=age)
    several = age(oldest) == age(second)
    for entry in group:
        if entry is not oldest:
            yield entry, oldest
        elif several:
            yield entry, second


def check_seeds(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Check that a method is run once on a pair, by a recipe, with a seed."""
    for group in alike(entries, lambda entry: _without(entry, *CODE_AND_FILES)).values():
        for entry, other in blamed(group, age) if len(group) > 1 else ():
            run = f"a run of the same method, pair and recipe with seed {entry.identity.seed}"
            yield Finding(entry.file, Problem(f"duplicate seed: {other.file} is {run}", "submit one run of a seed"))


def _without(entry: EntryFile, *left_out: str) -> str:
    """Return the identity as JSON, without some of its fields."""
    values = entry.identity.model_dump(mode="json")
    for name in left_out:
        table, _, field = name.rpartition(".")
        holder = values[table] if table else values
        if holder is not None:
            del holder[field]
    return exact_text(values)


def check_copies(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Check that no two runs end in the same weights or predictions."""
    for name in ("weights_sha256", "predictions_sha256"):
        for group in alike(entries, attrgetter(f"record.{name}")).values():
            if len(group) < 2 or (name == "predictions_sha256" and may_agree(group[0].predictions)):
                continue
            for entry, other in blamed(group, age):
                what = f"copied run: it has the {name.partition('_')[0]} of {other.file}"
                yield Finding(entry.file, Problem(what, "submit every run once, under its own name"))


def may_agree(predictions: np.ndarray) -> bool:
    """Return True where two honest runs may well predict the same: on a handful of images, or in collapse."""
    return len(predictions) < FEW_IMAGES or len(np.unique(predictions)) < FEW_CLASSES


def check_weights(entries: list[EntryFile], accepted: Mapping[TeacherName, str], age: Age) -> Iterator[Finding]:
    """Check that all entries on a teacher were taught by the same weights.

    These are the known ones (see `known_weights`); before any are, those of the runs that trained it and are no younger
    than the entry; else the most used by the oldest entries, those on the registry's teacher first, so that new ones,
    however many, have no vote. Students of runs teach by weights of their own: see
    `check_run_teachers`.
    """
    taught = [entry for entry in entries if entry.identity.teacher and not any(_teaching_runs(entry))]
    old = [entry for entry in entries if age(entry) == ACCEPTED]
    for name, group in alike(taught, lambda entry: teacher_name(entry.identity)).items():
        votes = alike(group, lambda entry: (_source(entry) is not None, age(entry)))
        voters = votes[min(votes)]
        counts = Counter(teacher_of(entry.identity).sha256 for entry in voters)
        most = {sha256 for sha256, count in counts.items() if count == max(counts.values())}
        known = known_weights(name, old, accepted)
        for (source, own_age), part in alike(group, lambda entry: (_source(entry), age(entry))).items():
            trained = _trained(name, source, [entry for entry in entries if age(entry) <= own_age], age)
            allowed = {known} if known else trained or (most if len(most) == 1 else set())
            yield from _other_weights(name, part, allowed)


def _teaching_runs(entry: EntryFile) -> list[str]:
    """Return the keys of the runs that taught an entry, as its record names them; an empty one for other teachers."""
    facts = entry.record.teacher
    names = facts.source.split(" + ") if facts and not facts.standard else []
    return [name.removeprefix(RUN_SOURCE) if name.startswith(RUN_SOURCE) else "" for name in names]


def check_run_teachers(entries: list[EntryFile]) -> Iterator[Finding]:
    """Check that a run that is said to have taught another has the weights that taught it, where it is here."""
    runs = {entry.key: entry for entry in entries}
    for entry in filter(lambda entry: entry.identity.teacher, entries):
        teacher = teacher_of(entry.identity)
        for key, taught in zip(_teaching_runs(entry), teacher.several or (teacher,)):
            run = runs.get(key)
            if run and run.record.weights_sha256 != taught.sha256:
                what = f"other teacher: its weights {taught.sha256[:16]} are not those of {run.file}"
                yield Finding(entry.file, Problem(what, "submit the run that taught it"))


def check_circles(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Check that no run has learnt or started from its own weights, be it by way of others."""
    runs = {entry.record.weights_sha256: entry for entry in entries}
    links = [(weights, each) for weights, entry in runs.items() for each in _ancestors(entry) if each in runs]
    chains = networkx.DiGraph(links)
    for circle in networkx.strongly_connected_components(chains):
        group = [runs[weights] for weights in sorted(circle)]
        if len(group) == 1 and not chains.has_edge(*circle, *circle):
            continue
        for entry, other in blamed(group, age) if len(group) > 1 else [(group[0], group[0])]:
            what = f"its chain of teachers and starts leads back to its own weights, by {other.file}"
            yield Finding(entry.file, Problem(what))


def _ancestors(entry: EntryFile) -> list[str]:
    """Return the weights that a run has learnt and started from."""
    teacher, init = entry.identity.teacher, entry.identity.recipe.get("init")
    taught = [each.sha256 for each in teacher.several or (teacher,)] if teacher else []
    return [*taught, init.removeprefix("sha256:")] if isinstance(init, str) else taught


def _source(entry: EntryFile) -> str | None:
    """Return where a teacher that is not the registry's says to come from; None for the registry's."""
    facts = entry.record.teacher
    return facts.source if facts and not facts.standard else None


def _trained(name: TeacherName, source: str | None, entries: list[EntryFile], age: Age) -> set[str]:
    """Return the weights that entries say to have trained of a teacher: of the registry's by its recipe alone."""
    if source is None:
        sha256 = known_weights(name, sorted(entries, key=age), {})
        return {sha256} if sha256 else set()
    return {run.record.weights_sha256 for run in entries if _training(run) == (zoo_model(name[0]), name[1], source)}


def _other_weights(name: TeacherName, entries: list[EntryFile], allowed: set[str]) -> Iterator[Finding]:
    others = ", ".join(sorted(sha256[:16] for sha256 in allowed)) or "none has a majority"
    for entry in entries:
        sha256 = teacher_of(entry.identity).sha256
        if sha256 not in allowed:
            what = (
                f"other teacher: its weights {sha256[:16]} of {name[0]} are not those of the other entries ({others})"
            )
            yield Finding(entry.file, Problem(what, "train with the accepted weights: see RULES.md"))


def known_weights(
    name: TeacherName, trustworthy: Iterable[EntryFile], accepted: Mapping[TeacherName, str]
) -> str | None:
    """Return the sha256 that a teacher must have: the accepted one, the registry's, or that of its own training.

    Args:
        trustworthy: the entries among which its training is looked for; it counts with the unchanged recipe alone.
    """
    model, dataset, size, precision = name
    entry = registry_entry(model, dataset)
    if sha256 := accepted.get(name) or (entry and entry.sha256):
        return sha256
    if entry is None or not entry.train:
        return None
    recipe, seed = entry.training_recipe().identity(), entry.seed
    for run in trustworthy:
        identity = run.identity
        made = identity.method.id, identity.student, identity.dataset.name, identity.seed, identity.precision
        as_entered = SCRATCH, entry.zoo_model, dataset, seed, entry.precision or precision
        if made == as_entered and identity.recipe == recipe and recipe["image_size"] == size:
            return run.record.weights_sha256
    return None


def _training(entry: EntryFile) -> tuple[str, str, str] | None:
    """Return the teacher a run may have trained: model, dataset, and the recipe as the teachers' records name it."""
    if entry.identity.method.id != SCRATCH or entry.identity.seed:
        return None
    return entry.identity.student, entry.identity.dataset.name, f"trained by {entry.record.recipe_name}"


def teacher_of(identity: Identity) -> TeacherIdentity:
    """Return the teacher of a run that has one."""
    assert identity.teacher is not None
    return identity.teacher


def teacher_name(identity: Identity) -> TeacherName:
    """Return the things that decide a teacher's weights: model, dataset, image size and precision."""
    size = identity.recipe.get("image_size")
    model = teacher_of(identity).model
    return model, identity.dataset.name, size if isinstance(size, int) else 0, identity.precision


def check_trained_teachers(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Check that a teacher is expected to reach what the run that trained it reached, where that run is here."""
    trainings = alike((e for e in entries if e.identity.method.id == SCRATCH), attrgetter("record.weights_sha256"))
    for entry in entries:
        teacher, facts = entry.identity.teacher, entry.record.teacher
        if not (teacher and facts and trainings.get(teacher.sha256)):
            continue
        training = min(trainings[teacher.sha256], key=age)
        student, top1 = training.identity.student, training.record.result.top1
        if zoo_model(teacher.model) != student:
            what = f"other teacher: its weights are those of {student}, trained in {training.file}"
        elif facts.source.startswith("trained by") and facts.expected != top1:
            what = f"expects {facts.expected} % of its teacher, whose own run {training.file} has {top1} %"
        else:
            continue
        if age(entry) >= age(training):
            yield Finding(entry.file, Problem(what))
        if age(entry) <= age(training):
            yield Finding(training.file, Problem(f"contradicts {entry.file}, which its weights have taught: {what}"))


def check_baselines(entries: list[EntryFile]) -> Iterator[Finding]:
    """Note entries without a scratch student of the same recipe and seed: a gain needs one."""
    students = {entry.file: _without(entry, "method", "teacher", "engine_version") for entry in entries}
    scratch = {students[entry.file] for entry in entries if entry.identity.method.id == SCRATCH}
    for file, student in students.items():
        if student not in scratch:
            what = f"no {SCRATCH} run of its student, recipe and seed is here: boards cannot give its gain"
            yield Finding(file, Problem(what, f"submit the {SCRATCH} run too", note=True))
