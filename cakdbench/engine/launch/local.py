"""More processes of the same command on this machine; the locks of the store share out the work among them."""

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator

MIN_LANES_PER_WORKER = 4
"""Lanes that are worth a pass of their own over the data, by a process that has nothing else to do."""


def fair_share(lanes: int, jobs: int) -> int:
    """How many of the lanes that are left one of the processes may take at a time."""
    return lanes if jobs == 1 else max(MIN_LANES_PER_WORKER, math.ceil(lanes / jobs))


@contextlib.contextmanager
def helpers(count: int) -> Iterator[None]:
    """Start `count` silent processes of this very command; they save their work and end when the block is left."""
    given = ["--yes", "--jobs", str(count + 1), "--helper-of", str(os.getpid())]
    command = [sys.executable, "-m", "cakdbench", *sys.argv[1:], *given]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **silent) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
