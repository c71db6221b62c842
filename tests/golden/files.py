"""Files of golden steps, one a method: read, compare, write."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .steps import Values

FOLDER = Path(__file__).with_name("steps")
RELATIVE, ABSOLUTE = 1e-5, 1e-13


@dataclass
class Golden:
    """The steps of a method, by name, as its version computes them."""

    version: int
    steps: dict[str, Values] = field(default_factory=dict)


def read(method_id: str, folder: Path = FOLDER) -> Golden | None:
    """Return what is kept of a method; None if it is new."""
    path = folder / f"{method_id}.json"
    return Golden(**json.loads(path.read_text())) if path.is_file() else None


def write(method_id: str, golden: Golden, folder: Path = FOLDER) -> None:
    """Write a method's file, one step a line, nine digits a number."""
    lines = [f"{json.dumps(name)}: {json.dumps(_rounded(golden.steps[name]))}" for name in sorted(golden.steps)]
    folder.mkdir(exist_ok=True)
    text = f'{{"version": {golden.version}, "steps": {{\n' + ",\n".join(lines) + "\n}}\n"
    (folder / f"{method_id}.json").write_text(text)


def _rounded(values: Values) -> Values:
    return {name: float(f"{value:.9g}") for name, value in values.items()}


def differences(before: dict[str, Values], now: dict[str, Values]) -> list[str]:
    """Return a sentence per number of `now` that is not that of `before`, over the steps that both have."""
    return [
        f"{step}: {sentence}"
        for step, values in now.items()
        if step in before
        for sentence in _differences(before[step], values)
    ]


def _differences(before: Values, now: Values) -> Iterator[str]:
    for name in before.keys() | now.keys():
        if name not in before or name not in now:
            yield f"{name} is {'gone' if name in before else 'new'}"
        elif not math.isclose(before[name], now[name], rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{name} was {before[name]:.9g} and is {now[name]:.9g}"


def complaint(method_id: str, version: int, golden: Golden | None, now: dict[str, Values]) -> str | None:
    """Return in what a method's steps are not the golden ones, and the fix; None if they are."""
    command = f"`python -m tests.golden {method_id}`"
    if golden is None:
        return f"{method_id} has no golden steps: write them with {command}"
    changed = differences(golden.steps, now)
    if version < golden.version:
        changed = [f"its version was {golden.version} and is {version}"]
    if version < golden.version or (changed and version == golden.version):
        return _unversioned(method_id, golden.version, changed, command)
    if version > golden.version:
        return f"{method_id} has version {version}, its golden steps {golden.version}: regenerate with {command}"
    if unlike := sorted(now.keys() ^ golden.steps.keys()):
        return f"{unlike[0]}: only {'run' if unlike[0] in now else 'kept'}, so not compared: regenerate with {command}"
    return None


def _unversioned(method_id: str, version: int, changed: list[str], command: str) -> str:
    return (
        f"{method_id} no longer computes what its version {version} did:\n  " + "\n  ".join(sorted(changed)[:8]) + "\n"
        f"raise version= in @register of {method_id} and regenerate with {command}, or undo the change. "
        "(If only a default of its Config changed, which its keys show by themselves, add --force.)"
    )
