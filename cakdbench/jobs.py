"""More processes of the same command on this machine; the locks of the store share out the groups among them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def helpers(count: int) -> Iterator[None]:
    """Start `count` silent processes of this very command; they save their work and end when the block is left."""
    command = [sys.executable, "-m", "cakdbench", *sys.argv[1:], "--yes", "--helper-of", str(os.getpid())]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **silent) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
