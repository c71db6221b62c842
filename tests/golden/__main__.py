"""Write the golden steps of methods: `python -m tests.golden [METHOD ...] [--force]`."""

import argparse
import sys
from pathlib import Path

from cakdbench.method import Method
from cakdbench.records import ENGINE_VERSION
from cakdbench.registry import get_method

from .engine import run_all
from .files import ENGINE, FOLDER, Golden, Values, complaint, differences, read, write
from .steps import DIRECTIONS, built_in, steps_on, version_of


def regenerate(method: type[Method], force: bool = False, folder: Path = FOLDER) -> str | None:
    """Write a method's golden steps and return None, or leave its file and return why it is not written."""
    now = {name: values for direction in DIRECTIONS for name, values in steps_on(method, direction).items()}
    return rewrite(method.id, version_of(method), now, force, folder)


def rewrite(name: str, version: int, now: dict[str, Values], force: bool = False, folder: Path = FOLDER) -> str | None:
    """Write a file of golden steps and return None, or leave it and return why it is not written.

    Numbers that agree with the file's stay as they stand there; steps that no longer exist are dropped.
    """
    golden = read(name, folder)
    changed = golden is not None and differences(golden.steps, now)
    if golden and not force and (version < golden.version or (changed and version == golden.version)):
        return complaint(name, version, golden, now)
    write(name, Golden(version, _merged(golden, now)), folder)
    return None


def _merged(golden: Golden | None, now: dict[str, Values]) -> dict[str, Values]:
    before = golden.steps if golden else {}
    return {
        name: before[name] if name in before and not differences(before, {name: values}) else values
        for name, values in now.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="or `engine`; all if none is named")
    parser.add_argument("--force", action="store_true", help="overwrite though the version was not raised")
    arguments = parser.parse_args()
    refused = 0
    for name in arguments.methods or [*built_in(), ENGINE]:
        if name == ENGINE:
            reason = rewrite(ENGINE, ENGINE_VERSION, run_all(), arguments.force)
        else:
            reason = regenerate(get_method(name), arguments.force)
        refused += reason is not None
        print(reason or f"{name}: written", file=sys.stderr if reason else sys.stdout, flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
