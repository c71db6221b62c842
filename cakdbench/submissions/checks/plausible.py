"""Notes on numbers that honest runs hardly have: no reason to refuse, but one to look before an entry is accepted."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np

from cakdbench.records import DatasetIdentity, TeacherFacts
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.crossing import Age, alike, blamed, may_agree
from cakdbench.submissions.findings import Finding, Problem

AGREEMENT = 0.985
"""Share of equal predictions of two runs: 5,145 honest pairs of the demo have at most 0.963, a student and its teacher
0.917; a copy with one prediction flipped has 0.9995."""
SOME_IMAGES, NEAR = 400, 0.93
"""Two runs that agree on fewer of so many images are not compared on all: thousands of entries have millions of pairs.
Of those that agree on 0.985 of all images, one pair in 10^10 is missed."""
ABOVE_TEACHER, LAST_STEP = 1.0, 3.0
"""Points of a student above its teacher, and from the last evaluation but one to the last."""
EVALUATIONS = 4
"""A training of fewer may well end on a large step."""
SHARED_ERRORS = 0.3
"""Least agreement of a run's errors with those of another run of its student, from 0 (they coincide by chance) to 1 (as
often as they can), as some images are harder than others. The best of 176 honest runs of the demo is 0.73 to 0.91, of
poor ones of two epochs 0.39; of predictions made up from the labels 0.14 to 0.25 (30 to 92 % right; 0.34 at 97 %)."""
MOST_WRONG, FEW_ERRORS = 0.7, 10
"""Share of wrong predictions above which a run has collapsed and shows nothing, and the least errors to coincide by
chance that do."""
BEGUN = datetime(2026, 11, 21, tzinfo=UTC)
"""When the code of the first run was written."""


def doubt(what: str) -> Problem:
    """Return a note on an unlikely number."""
    return Problem(what, "unlikely in an honest run: look before it is accepted", note=True, doubt=True)


def check_plausible(case: Case) -> Iterator[Problem]:
    """Note a student above its teacher or a teacher off its entry, a large last step, a top-5 of 100, an early date."""
    result, teacher = case.record.result, case.record.teacher
    if teacher:
        yield from _teacher(result.top1, teacher)
    scores = [line.top1 for line in case.record.history if line.top1 is not None]
    if len(scores) >= EVALUATIONS and scores[-1] - scores[-2] > LAST_STEP:
        yield doubt(f"its last step is {scores[-1] - scores[-2]:.2f} points ({scores[-2]:.2f} to {scores[-1]:.2f} %)")
    if result.top5 >= 100 and (case.classes or 0) > 5:
        yield doubt(f"its top-5 is {result.top5:.2f} %")
    try:
        finished = datetime.fromisoformat(case.record.conditions.finished).astimezone(UTC)
    except (ValueError, OverflowError):
        return  # said by check_conditions
    if finished < BEGUN:
        yield doubt(f"finished on {finished:%Y-%m-%d}, before there was any cakdbench ({BEGUN:%Y-%m-%d})")


def _teacher(top1: float, teacher: TeacherFacts) -> Iterator[Problem]:
    if teacher.mismatch_allowed:
        yield doubt(f"its teacher reached {teacher.measured:.2f} % and is expected to have {teacher.expected:.2f} %")
    # What was measured is the submitter's word: what is expected is not.
    known = teacher.measured if teacher.expected is None else min(teacher.measured, teacher.expected)
    if top1 - known > ABOVE_TEACHER:
        yield doubt(f"its student is {top1 - known:.2f} points above its teacher ({top1:.2f}, {known:.2f} %)")


def check_agreement(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Note students that predict nearly what another run on the dataset predicts, or their teacher."""
    trained = {entry.record.weights_sha256: entry for entry in entries if entry.identity.teacher is None}
    for group in alike(entries, _test_set).values():
        table = np.stack([entry.predictions for entry in group])
        some = _sample(table)
        for place, entry in enumerate(group):
            if may_agree(entry.predictions):
                continue
            near = place + 1 + np.flatnonzero((some[place + 1 :] == some[place]).mean(axis=1) >= NEAR)
            shares = (table[near] == entry.predictions).mean(axis=1)
            for other in np.flatnonzero(shares >= AGREEMENT):
                yield from _agreeing(entry, group[near[other]], shares[other], age)
            teacher = trained.get(entry.identity.teacher.sha256) if entry.identity.teacher else None
            if teacher is not None and teacher.predictions.shape == entry.predictions.shape:
                share = float((teacher.predictions == entry.predictions).mean())
                if share >= AGREEMENT:
                    yield Finding(entry.file, doubt(f"agrees with its teacher {teacher.file} on {share:.4f} of images"))


def check_errors(
    entries: list[EntryFile], labels: Callable[[DatasetIdentity], np.ndarray | None], age: Age
) -> Iterator[Finding]:
    """Note runs whose errors are not those of the student's other runs, as where they were made up from test labels.

    An entry is compared with the oldest ones, so that made-up ones do not speak for each other; there may be none.

    Args:
        labels: returns the `(N,)` classes of the test images, None where they are not known.
    """
    for (_, data), group in alike(entries, lambda entry: (entry.identity.student, entry.identity.dataset)).items():
        truth = labels(data)
        group = [] if truth is None else [entry for entry in group if len(entry.predictions) == len(truth)]
        if len(group) < 2:
            continue
        wrong = np.stack([entry.predictions != truth for entry in group])
        sound = np.flatnonzero(wrong.mean(axis=1) <= MOST_WRONG)
        for place in sound:
            others = [other for other in sound if other != place]
            oldest = min((age(group[other]) for other in others), default=None)
            partners = [other for other in others if age(group[other]) == oldest]
            yield from _foreign_errors(group[place], wrong[place], wrong[partners])


def _foreign_errors(entry: EntryFile, wrong: np.ndarray, others: np.ndarray) -> Iterator[Finding]:
    others = others[others.sum(axis=1) * wrong.mean() >= FEW_ERRORS]
    counts, own, shared = others.sum(axis=1), wrong.sum(), (others & wrong).sum(axis=1)
    chance, most = counts * wrong.mean(), np.minimum(counts, own)
    agreement = (shared - chance) / (most - chance)
    if len(agreement) and agreement.max() < SHARED_ERRORS:
        what = f"its errors agree with those of no other run of its student by more than {agreement.max():.2f}"
        yield Finding(entry.file, doubt(f"{what} (0: by chance, 1: all)"))


def _agreeing(first: EntryFile, second: EntryFile, share: float, age: Age) -> Iterator[Finding]:
    for entry, other in blamed([first, second], age):
        yield Finding(entry.file, doubt(f"agrees with {other.file} on {share:.4f} of images"))


def _sample(table: np.ndarray) -> np.ndarray:
    """Return a part of the images of `(entries, images)`; drawn by all of it, since one known before can be evaded."""
    seed = int.from_bytes(hashlib.sha256(table.tobytes()).digest()[:16])
    images = table.shape[1]
    chosen = np.random.default_rng(seed).choice(images, min(SOME_IMAGES, images), replace=False)
    return np.ascontiguousarray(table[:, chosen])


def _test_set(entry: EntryFile) -> tuple[str, int]:
    return entry.identity.dataset.name, len(entry.predictions)
