"""Check that the conditions of a run are possible."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Problem

PACKAGES = ("python", "cakdbench", "torch", "torchvision", "timm", "accelerate")
_VERSION = re.compile(r"[A-Za-z0-9_.\-]{1,40} [A-Za-z0-9_.+!\-]{1,60}")
CLOCKS_DIFFER = timedelta(minutes=10)
MOST = 1e9
"""Seconds, images a second, 2^20 bytes or watt-hours of a run that is still believed."""
LEAST_TRAINING = 0.05
"""Part of a lane's seconds that goes into training steps, at least; evaluations take the rest."""


def check_conditions(case: Case) -> Iterator[Problem]:
    """Check versions, processes, lanes and the time of the end."""
    conditions, identity = case.record.conditions, case.identity
    if missing := [name for name in PACKAGES if not conditions.versions.get(name)]:
        yield Problem(f"it does not say which version it ran with of {', '.join(missing)}")
    if conditions.processes < 1 or conditions.threads < 1:
        yield Problem("it ran in less than one process or thread")
    label = case.record.label
    if not {label, f"{label} > {identity.student}"} & set(conditions.lanes):
        yield Problem(f"{label[:100]} is not among the lanes it was trained in")
    numbers = (conditions.seconds, conditions.images_per_second, conditions.peak_memory_mb)
    if not all(value is None or 0 < value <= MOST for value in numbers):
        yield Problem("its seconds, images per second or memory are not positive, or beyond all bounds")
    if conditions.energy_wh is not None and not 0 <= conditions.energy_wh <= MOST:
        yield Problem("its energy is negative, or beyond all bounds")
    if odd := [name for name, text in conditions.versions.items() if not _VERSION.fullmatch(f"{name} {text}")]:
        yield Problem(f"has no proper version of {ascii(odd[0])[1:-1][:60]}")
    yield from _time(conditions.finished, case.now)


def _time(text: str, now: datetime) -> Iterator[Problem]:
    try:
        finished = datetime.fromisoformat(text)
    except ValueError:
        yield Problem("`finished` is no time in ISO 8601")
        return
    if finished.utcoffset() != timedelta():
        yield Problem("`finished` is not in UTC")
    elif finished > now.astimezone(UTC) + CLOCKS_DIFFER:
        yield Problem(f"finished in the future ({text[:40]})", "set the clock right, and run it again")


def check_pace(case: Case) -> Iterator[Problem]:
    """Check that the time of the training steps, from images and images per second, fits into the lane's seconds."""
    conditions = case.record.conditions
    if (
        not case.recipe
        or not case.steps_per_epoch
        or conditions.processes < 1
        or not (conditions.images_per_second > 0 and conditions.seconds > 0)
    ):
        return
    images = case.recipe.epochs * case.steps_per_epoch * case.recipe.global_batch / conditions.processes
    training = images / conditions.images_per_second
    if not LEAST_TRAINING * conditions.seconds <= training <= 1.001 * conditions.seconds + 0.01:
        what = f"{images:.0f} images at {conditions.images_per_second:.6g} a second take {training:.1f} s"
        yield Problem(f"{what}, which does not go with {conditions.seconds:.1f} s in all")
