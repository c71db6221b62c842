"""Files of golden steps, one a method and one of the engine: read, compare, write."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Values = dict[str, float]
"""The numbers of a training step by name: `loss LABEL`, `student gradient`, `extra gradient`, `logits`, `buffers`."""

FOLDER = Path(__file__).with_name("steps")
RELATIVE, ABSOLUTE = 1e-5, 1e-13
ENGINE, HALF = "engine", "half precision"
FLOAT32, FLOAT32_RELATIVE = {ENGINE, HALF}, 1e-4
"""Words in the names of steps that lower precision takes part in, and their tolerance."""


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
        for sentence in _differences(before[step], values, _relative(step))
    ]


def _relative(step: str) -> float:
    return RELATIVE if FLOAT32.isdisjoint(step.split(", ")) else FLOAT32_RELATIVE


def _differences(before: Values, now: Values, relative: float) -> Iterator[str]:
    for name in before.keys() | now.keys():
        if name not in before or name not in now:
            yield f"{name} is {'gone' if name in before else 'new'}"
        elif not math.isclose(before[name], now[name], rel_tol=relative, abs_tol=ABSOLUTE):
            yield f"{name} was {before[name]:.9g} and is {now[name]:.9g}"


def complaint(name: str, version: int, golden: Golden | None, now: dict[str, Values]) -> str | None:
    """Return in what steps of a method, or of the engine, are not the golden ones, and the fix; None if they are."""
    command = f"`python -m tests.golden {name}`"
    if golden is None:
        return f"{name} has no golden steps: write them with {command}"
    changed = differences(golden.steps, now)
    if version < golden.version:
        changed = [f"its version was {golden.version} and is {version}"]
    if version < golden.version or (changed and version == golden.version):
        return _unversioned(name, golden.version, changed, command)
    if version > golden.version:
        return f"{name} has version {version}, its golden steps {golden.version}: regenerate with {command}"
    if unlike := sorted(now.keys() ^ golden.steps.keys()):
        return f"{unlike[0]}: only {'run' if unlike[0] in now else 'kept'}, so not compared: regenerate with {command}"
    return None


def _unversioned(name: str, version: int, changed: list[str], command: str) -> str:
    raising = "raise records.ENGINE_VERSION" if name == ENGINE else f"raise version= in @register of {name}"
    return (
        f"{name} no longer computes what its version {version} did:\n  " + "\n  ".join(sorted(changed)[:8]) + "\n"
        f"{raising} and regenerate with {command}, or undo the change. "
        "(If only a default of its Config changed, which its keys show by themselves, add --force.)"
    )
