"""Timing on a device: waits, medians over series of calls, the ticks of a trainer, the rate of a matrix product."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cakdbench.data.stream import SampleStream
from cakdbench.train.events import GroupView, NoEvents

MATRIX = {"cuda": 8192, "cpu": 1024, "mps": 4096}
"""Rows and columns of the matrices whose product measures a device's rate."""
BETWEEN_WAITS = 0.2
"""Seconds of work on a device between two waits for it, about, so that a wait weighs nothing."""


@dataclass(frozen=True)
class Limit:
    """Steps of the trainer that are timed, less where they take longer than so many seconds, but never below `least`.

    Other series take a quarter of the seconds at most.
    """

    steps: int = 40
    seconds: float = 20.0
    least: int = 3

    def series(self) -> Iterator[int]:
        """Yield numbers from 0 on, as long as a series may go on."""
        started = time.perf_counter()
        for number in range(self.steps):
            if number >= self.least and time.perf_counter() - started > self.seconds / 4:
                return
            yield number


def wait(device: torch.device) -> None:
    """Return once the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of(act: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Return the seconds of a call, mean over so many without a wait in between."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        act()
    wait(device)
    return (time.perf_counter() - started) / calls


def issue_seconds(act: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds in which a call has told an idle device what to do."""
    wait(device)
    started = time.perf_counter()
    act()
    issued = time.perf_counter() - started
    wait(device)
    return issued


def median_seconds(act: Callable[[], Any], device: torch.device, limit: Limit) -> float:
    """Return the seconds of a call: the median over series of calls with a wait after each series."""
    once = statistics.median(seconds_of(act, device) for _ in range(2))
    calls = max(1, min(limit.steps // 4, int(BETWEEN_WAITS / max(once, 1e-6))))
    series = [seconds_of(act, device, calls) for number in limit.series() if number * calls < limit.steps]
    return statistics.median(series)


def stream_rate(stream: SampleStream, workers: int, limit: Limit) -> float:
    """Return images/s of a stream alone, after what its processes had rendered while nobody waited."""
    ahead = 2 * workers
    times: list[float] = []
    for _ in stream.epoch(0):
        times.append(time.perf_counter())
        if len(times) > 2 * ahead and times[-1] - times[ahead] > limit.seconds / 4:
            break
    times = times[ahead:] if len(times) > ahead + 1 else times
    images = stream.accumulation * stream.recipe.local_batch
    return images * (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


class Ticks(NoEvents):
    """Notes when steps of a trainer are done, and says when they are enough."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.perf_counter):
        self.limit = limit
        self._seen: list[tuple[int, float]] = []
        self._clock = clock

    def tick(self, view: GroupView) -> None:
        self._seen.append((view.step, self._clock()))

    def enough(self) -> bool:
        """Return True once the series is long enough: what `Runtime.stop` asks for."""
        if len(self._seen) <= self.limit.least + 1:
            return False
        (_, start), (step, now) = self._seen[0], self._seen[-1]
        return step >= self.limit.steps or now - start > self.limit.seconds

    def seconds_per_step(self) -> float | None:
        """Return the median over the intervals between ticks, without the first where there are more; None if none."""
        pairs = [(a, b) for a, b in zip(self._seen, self._seen[1:]) if b[0] > a[0]]
        seconds = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs[1:] or pairs]
        return statistics.median(seconds) if seconds else None


_rates: dict[tuple[str, str, int, bool], float] = {}


def matrix_rate(device: torch.device, precision: str) -> float:
    """Return multiply-adds/s of a large matrix product, in bfloat16 or in float32 as torch is set; once a process."""
    key = str(device), precision, torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    if key not in _rates:
        size, dtype = MATRIX.get(device.type, 1024), torch.bfloat16 if precision == "bf16" else torch.float32
        a = torch.randn(size, size, device=device, dtype=dtype)
        _rates[key] = size**3 / min(seconds_of(lambda: a @ a, device) for _ in range(8))
    return _rates[key]
