"""Notes on numbers that honest runs hardly have: no reason to refuse, but one to look before an entry is accepted."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.crossing import Age, alike, blamed, may_agree
from cakdbench.submissions.findings import Finding, Problem

AGREEMENT = 0.985
"""Share of equal predictions of two runs: 5,145 honest pairs of the demo have at most 0.963, a student and its teacher
0.917; a copy with one prediction flipped has 0.9995."""
ABOVE_TEACHER, LAST_STEP = 1.0, 3.0
"""Points of a student above its teacher, and from the last evaluation but one to the last."""
EVALUATIONS = 4
"""A training of fewer may well end on a large step."""
BEGUN = datetime(2026, 11, 21, tzinfo=UTC)
"""When the code of the first run was written."""


def doubt(what: str) -> Problem:
    """Return a note on an unlikely number."""
    return Problem(what, "unlikely in an honest run: look before it is accepted", note=True, doubt=True)


def check_plausible(case: Case) -> Iterator[Problem]:
    """Note a student above its teacher, a large last step, a top-5 of 100 and a date before the software's."""
    result, teacher = case.record.result, case.record.teacher
    if teacher and result.top1 - teacher.measured > ABOVE_TEACHER:
        above = result.top1 - teacher.measured
        yield doubt(
            f"its student is {above:.2f} points above its teacher ({result.top1:.2f}, {teacher.measured:.2f} %)"
        )
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


def check_agreement(entries: list[EntryFile], age: Age) -> Iterator[Finding]:
    """Note students that predict nearly what another run of the pair predicts, or their teacher."""
    trained = {entry.record.weights_sha256: entry for entry in entries if entry.identity.teacher is None}
    for group in alike(entries, _student).values():
        table = np.stack([entry.predictions for entry in group])
        for place, entry in enumerate(group):
            if may_agree(entry.predictions):
                continue
            shares = (table[place + 1 :] == entry.predictions).mean(axis=1)
            for other in np.flatnonzero(shares >= AGREEMENT):
                yield from _agreeing(entry, group[place + 1 + other], shares[other], age)
            teacher = trained.get(entry.identity.teacher.sha256) if entry.identity.teacher else None
            if teacher is not None and teacher.predictions.shape == entry.predictions.shape:
                share = float((teacher.predictions == entry.predictions).mean())
                if share >= AGREEMENT:
                    yield Finding(entry.file, doubt(f"agrees with its teacher {teacher.file} on {share:.4f} of images"))


def _agreeing(first: EntryFile, second: EntryFile, share: float, age: Age) -> Iterator[Finding]:
    for entry, other in blamed([first, second], age):
        yield Finding(entry.file, doubt(f"agrees with {other.file} on {share:.4f} of images"))


def _student(entry: EntryFile) -> tuple[str, str, int]:
    return entry.identity.student, entry.identity.dataset.name, len(entry.predictions)
