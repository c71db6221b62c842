"""Whether the conditions of a run can have been."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.identity import ANEW
from cakdbench.submissions.findings import Problem

PACKAGES = ("python", "cakdbench", "torch", "torchvision", "timm", "accelerate")
CLOCKS_DIFFER = timedelta(minutes=10)
LEAST_TRAINING = 0.05
"""Part of a lane's seconds that goes into training steps, at least; evaluations take the rest."""


def check_conditions(case: Case) -> Iterator[Problem]:
    """Versions, processes, lanes and the time of the end."""
    found, identity = case.record.conditions, case.identity
    if missing := [name for name in PACKAGES if not found.versions.get(name)]:
        yield Problem(f"it does not say which version it ran with of {', '.join(missing)}", ANEW)
    if found.processes < 1 or found.threads < 1:
        yield Problem("it ran in less than one process or thread", ANEW)
    label = case.record.label
    if not {label, f"{label} > {identity.student}"} & set(found.lanes):
        yield Problem(f"{label[:100]} is not among the lanes it was trained in", ANEW)
    numbers = (found.seconds, found.images_per_second, found.peak_memory_mb)
    if not all(value is None or (math.isfinite(value) and value > 0) for value in numbers):
        yield Problem("its seconds, images per second or memory are not positive", ANEW)
    if found.energy_wh is not None and not 0 <= found.energy_wh < math.inf:
        yield Problem("its energy is negative", ANEW)
    yield from _time(found.finished, case.now)


def _time(text: str, now: datetime) -> Iterator[Problem]:
    try:
        finished = datetime.fromisoformat(text)
    except ValueError:
        yield Problem("`finished` is no time in ISO 8601", ANEW)
        return
    if finished.utcoffset() != timedelta():
        yield Problem("`finished` is not in UTC", ANEW)
    elif finished > now.astimezone(UTC) + CLOCKS_DIFFER:
        yield Problem(f"finished in the future ({text[:40]})", "set the clock right, and run it again")


def check_pace(case: Case) -> Iterator[Problem]:
    """The time of the training steps, from images and images per second, fits into the lane's seconds."""
    found = case.record.conditions
    if not case.steps_per_epoch or found.processes < 1 or not (found.images_per_second > 0 and found.seconds > 0):
        return
    images = case.recipe.epochs * case.steps_per_epoch * case.recipe.global_batch / found.processes
    training = images / found.images_per_second
    if not LEAST_TRAINING * found.seconds <= training <= 1.001 * found.seconds + 0.01:
        what = f"{images:.0f} images at {found.images_per_second:.6g} a second take {training:.1f} s"
        yield Problem(f"{what}, which does not go with {found.seconds:.1f} s in all", ANEW)
