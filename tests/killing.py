"""Runs `cakdbench run` again and again, killing it at random moments, until it gets through. A script.

Each attempt is a process of its own, forked from this one after the imports so that a moment can fall anywhere in
the work and not only into the start. Prints, as JSON, the kills and what happened to finished runs.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from cakdbench import bench, cli, listing  # noqa: F401  (all imports are made before the first fork)
from cakdbench.reports import write  # noqa: F401


def finished(store: Path) -> dict[str, int]:
    """Finished runs and the time their record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/record.json")}


def attempt(arguments: list[str], log: Path) -> int:
    """Start the command in a child; its pid."""
    child = os.fork()
    if child == 0:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["cakdbench", *arguments]
        try:
            cli.main()
        except SystemExit as leaving:
            os._exit(leaving.code or 0)
        os._exit(99)
    return child


def main(store: Path, kills: int, longest: float, seed: int, arguments: list[str]) -> dict:
    moments, lost, repeated, killed = random.Random(seed), [], [], 0
    known: dict[str, int] = {}
    while True:
        child = attempt(arguments, store.parent / "log.txt")
        if killed < kills:
            time.sleep(moments.uniform(0.2, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        now = finished(store)
        lost += [key for key in known if key not in now]
        repeated += [key for key in known if key in now and now[key] != known[key]]
        known = now
        if not os.WIFSIGNALED(status):
            return {"code": os.WEXITSTATUS(status), "kills": killed, "lost": lost, "repeated": repeated,
                    "done": len(known)}  # fmt: skip
        killed += 1


if __name__ == "__main__":
    place, kills, longest, seed, *rest = sys.argv[1:]
    print(json.dumps(main(Path(place), int(kills), float(longest), int(seed), rest)))
