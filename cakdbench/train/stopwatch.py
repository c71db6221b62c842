"""Time a lane's own work on its device, without waiting for the device at every step."""

import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Adds up the seconds spent inside `running()`; on CUDA they are known after `flush()`."""

    def __init__(self, device: torch.device, seconds: float = 0.0):
        self.seconds = seconds
        self._cuda = device.type == "cuda"
        self._open: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        if self._cuda:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            yield
            pair[1].record()
            self._open.append(pair)
        else:
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started

    def flush(self) -> None:
        """Count what the device has finished since the last call; waits for it."""
        for start, end in self._open:
            end.synchronize()
            self.seconds += start.elapsed_time(end) / 1000
        self._open.clear()
