"""Check that the teacher is what its entry in the registry says, and passed its gate."""

import functools
from collections.abc import Iterator

from cakdbench.grid.teachers import TeacherEntry, load_teachers
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Problem
from cakdbench.utils.errors import UsageError

ROUNDING = 1e-6


def check_teacher(case: Case) -> Iterator[Problem]:
    """Check that there is a teacher where the method needs one, and none where it does not."""
    taught = case.identity.teacher is not None
    if taught != (case.record.teacher is not None):
        yield Problem("its identity and its record do not agree on whether it had a teacher")
    if case.method and bool(case.method.needs) != taught:
        yield Problem(f"{case.method.id} {'has a teacher and needs none' if taught else 'has no teacher'}")


def check_gate(case: Case) -> Iterator[Problem]:
    """Check that the measured accuracy is the expected one, or the difference is owned up to."""
    facts = case.record.teacher
    if facts is None:
        return
    if facts.tolerance < 0 or not 0 <= facts.measured <= 100 or not 0 <= (facts.expected or 0) <= 100:
        yield Problem("its teacher's accuracies are no percentages")
    if facts.measured_top5 is not None and facts.measured_top5 < facts.measured:
        yield Problem("its teacher's top-5 is below its top-1")
    off = facts.expected is not None and abs(facts.measured - facts.expected) > facts.tolerance + ROUNDING
    if facts.expected is not None and off != facts.mismatch_allowed:
        said = "is off" if off else "is as"
        yield Problem(f"its teacher {said} expected, and the record says the contrary")


def check_teacher_entry(case: Case) -> Iterator[Problem]:
    """Check that a teacher said to be the registry's has its source, expectations and input statistics."""
    facts, identity = case.record.teacher, case.identity
    if facts is None or identity.teacher is None:
        return
    if not facts.standard:
        yield Problem("its teacher is not the registry's", "boards set it aside", note=True)
        return
    entry = registry_entry(identity.teacher.model, identity.dataset.name)
    if entry is None:
        yield Problem("the registry has no entry for its teacher", "add one to pairs/teachers.toml", note=True)
        return
    expected = facts.expected if entry.train else entry.accuracy
    stated = facts.source, facts.tolerance, facts.expected
    if stated != (entry.source, entry.allowed, expected) or (entry.train and facts.expected is None):
        what = f"other teacher: {facts.source[:100]}, {facts.expected} ± {facts.tolerance} % is not the registry's"
        yield Problem(f"{what}, {entry.source}, {expected} ± {entry.allowed} %")
    if entry.sha256 not in (None, identity.teacher.sha256):
        what = f"other teacher: its weights {identity.teacher.sha256[:16]} are not the registry's {entry.sha256[:16]}"
        yield Problem(what, "train with the registry's weights")
    data = case.facts and (case.facts.mean, case.facts.std)
    fed = identity.teacher.statistics, identity.teacher.image_size
    size = None if case.recipe and entry.image_size == case.recipe.image_size else entry.image_size
    if case.recipe and data and fed != (entry.statistics_beside(data, case.recipe), size):
        yield Problem("its teacher was fed with other input statistics than its entry says")


_registry = functools.cache(load_teachers)


def registry_entry(model: str, dataset: str) -> TeacherEntry | None:
    """Return the registry's entry of a teacher; None if it has none."""
    try:
        return _registry()[model, dataset]
    except (KeyError, UsageError):
        return None
