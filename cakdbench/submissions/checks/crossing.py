"""What only shows when entries lie side by side."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter

import numpy as np

from cakdbench.grid.plan import ALWAYS
from cakdbench.records import Identity
from cakdbench.submissions.bundle import Held
from cakdbench.submissions.checks.case import model_of
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.status import AcceptedTeacher

FEW_CLASSES = 3
"""Students that predict fewer classes than this have collapsed, and may well agree."""


def cross_checks(held: list[Held], teachers: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """All of them, over all entries of a results folder."""
    yield from check_seeds(held)
    yield from check_copies(held)
    yield from check_weights(held, teachers)
    yield from check_trained_teachers(held)
    yield from check_baselines(held)


def check_seeds(held: list[Held]) -> Iterator[Finding]:
    """A method is run once on a pair, by a recipe, with a seed."""
    for group in _alike(held, _cell).values():
        for each in group[1:] if len(group) > 1 else ():
            seed, other = each.entry.record.identity.seed, group[0].file
            what = f"duplicate seed: {other} is a run of the same method, pair and recipe with seed {seed}"
            yield Finding(each.file, Problem(what, "submit one run of a seed"))


def _alike(held: list[Held], key) -> dict[object, list[Held]]:
    found = defaultdict(list)
    for each in held:
        found[key(each)].append(each)
    return found


def _cell(held: Held) -> str:
    """The run without its code, its teacher's weights and the copy of its data."""
    return _without(
        held,
        "engine_version",
        "method.version",
        "method.source",
        "dataset.fingerprint",
        "teacher.sha256",
        "teacher.statistics",
    )


def _without(held: Held, *left_out: str) -> str:
    """The identity as JSON, without some of its fields."""
    values = held.entry.record.identity.model_dump(mode="json")
    for name in left_out:
        table, _, field = name.rpartition(".")
        holder = values[table] if table else values
        if holder is not None:
            del holder[field]
    return json.dumps(values, sort_keys=True)


def check_copies(held: list[Held]) -> Iterator[Finding]:
    """No two runs end in the same weights or predictions, but where their settings are one under two names."""
    for name in ("weights_sha256", "predictions_sha256"):
        for group in _alike(held, attrgetter(f"entry.record.{name}")).values():
            first = group[0]
            if name == "predictions_sha256" and len(np.unique(first.predictions)) < FEW_CLASSES:
                continue
            for each in group[1:]:
                if _unnamed(each) != _unnamed(first):
                    what = f"copied run: it has the {name.partition('_')[0]} of {first.file}"
                    yield Finding(each.file, Problem(what, "submit every run once, under its own name"))


def _unnamed(held: Held) -> str:
    """The run without the name of its variant, which may be another name for the same settings."""
    return _without(held)


def check_weights(held: list[Held], accepted: Iterable[AcceptedTeacher]) -> Iterator[Finding]:
    """All entries on a teacher were taught by the same weights.

    These are the accepted ones; before any are, those of the runs that trained it; else the most used.
    """
    known = defaultdict(set)
    for line in accepted:
        known[line.model, line.dataset, line.image_size].add(line.sha256)
    trained = _alike(held, _training_name)
    taught = [each for each in held if each.entry.record.identity.teacher]
    for name, group in _alike(taught, lambda each: teacher_name(each.entry.record.identity)).items():
        for each in group:
            runs = {run.entry.record.weights_sha256 for run in trained.get(_trained_by(each), ())}
            allowed = known.get(name) or runs or _most_used(group)
            sha256 = each.entry.record.identity.teacher.sha256
            if sha256 not in allowed:
                what = f"other teacher: its weights {sha256[:16]} of {name[0]} are not those of the other entries"
                shown = ", ".join(sorted(one[:16] for one in allowed)) or "none has a majority"
                yield Finding(each.file, Problem(f"{what} ({shown})", "train with the accepted weights: see RULES.md"))


def _training_name(held: Held) -> tuple[str, ...]:
    """Of which teacher a run may be the training: model, dataset, and how the teachers' records name the recipe."""
    record = held.entry.record
    if record.identity.method.id != ALWAYS[0] or record.identity.seed:
        return ()
    return record.identity.student, record.identity.dataset.name, f"trained by {record.recipe_name}"


def _trained_by(held: Held) -> tuple[str, ...]:
    identity, facts = held.entry.record.identity, held.entry.record.teacher
    return model_of(identity.teacher.model), identity.dataset.name, facts.source if facts else ""


def teacher_name(identity: Identity) -> tuple[str, str, int]:
    """What a teacher's weights are a function of."""
    size = identity.recipe.get("image_size")
    return identity.teacher.model, identity.dataset.name, size if isinstance(size, int) else 0


def _most_used(group: list[Held]) -> set[str]:
    counts = defaultdict(int)
    for each in group:
        counts[each.entry.record.identity.teacher.sha256] += 1
    best = max(counts.values())
    winners = {sha256 for sha256, count in counts.items() if count == best}
    return winners if len(winners) == 1 else set()


def check_trained_teachers(held: list[Held]) -> Iterator[Finding]:
    """Where the run that trained a teacher is here, the expected accuracy is its own."""
    trainings = {e.entry.record.weights_sha256: e for e in held if e.entry.record.identity.method.id == ALWAYS[0]}
    for each in held:
        identity, facts = each.entry.record.identity, each.entry.record.teacher
        training = identity.teacher and trainings.get(identity.teacher.sha256)
        if not training or facts is None:
            continue
        record = training.entry.record
        if model_of(identity.teacher.model) != record.identity.student:
            what = f"other teacher: its weights are those of {record.identity.student}, trained in {training.file}"
            yield Finding(each.file, Problem(what, "submit the run as it was recorded"))
        elif facts.source.startswith("trained by") and facts.expected != record.result.top1:
            what = (
                f"expects {facts.expected} % of its teacher, whose own run {training.file} has {record.result.top1} %"
            )
            yield Finding(each.file, Problem(what, "submit the run as it was recorded"))


def check_baselines(held: list[Held]) -> Iterator[Finding]:
    """A gain needs the scratch student of the same recipe and seed."""
    scratch = {_student(each) for each in held if each.entry.record.identity.method.id == ALWAYS[0]}
    for each in held:
        if each.entry.record.identity.method.id != ALWAYS[0] and _student(each) not in scratch:
            what = f"no {ALWAYS[0]} run of its student, recipe and seed is here: boards cannot give its gain"
            yield Finding(each.file, Problem(what, f"submit the {ALWAYS[0]} run too", note=True))


def _student(held: Held) -> str:
    return _without(held, "method", "teacher", "engine_version")
