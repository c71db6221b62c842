"""Hold what every part of a run shares: the device, how to compute, who listens, when to stop."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cakdbench.data.datasets import OnBadImage
from cakdbench.train.events import Events, NoEvents
from cakdbench.train.tape import Part
from cakdbench.utils.device import usable_cores

MOST_WORKERS = 16
"""Rendering processes of one training process by default; a core is left for itself."""


@dataclass(frozen=True)
class Options:
    """Say how runs are computed. None of it changes what is computed; for data, their fingerprint stands in the key.

    Attributes:
        data_dir: where the datasets lie; None for the default place.
        download: fetch data and weights that are missing where there is a connection.
        on_bad_image: "skip" leaves out images that cannot be read.
        workers: processes that render images, per training process; None: none on a CPU, for a GPU its share of the
            cores but one, 16 at most.
        max_lanes: students trained side by side at most.
        memory: GB that they may take together by the prediction; None: most of a GPU's, no bound on a CPU.
        checkpoint_seconds: lanes are saved at least this often, besides every epoch.
        tape: parts of the teachers' outputs that are recorded in the store, and replayed; none without tape.
        keep_ema: keep the averaged weights of runs whose recipe has them, beside the last ones.
        track: experiment trackers that hear how runs go, see `engine.tracking`.
        attempt: of this command; by it all its processes, wherever they are, know the failures that are its own.
        keep_modules: keep what methods train beside the student.
    """

    data_dir: Path | None = None
    download: bool = True
    on_bad_image: OnBadImage = "refuse"
    workers: int | None = None
    max_lanes: int = 16
    memory: float | None = None
    checkpoint_seconds: float = 300.0
    tape: tuple[Part, ...] = ()
    keep_ema: bool = False
    keep_modules: bool = False
    compile: bool = False
    channels_last: bool = False
    allow_teacher_mismatch: bool = False
    track: tuple[str, ...] = ()
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)


def gpu_workers(processes: int) -> int:
    """Return how many processes render for a GPU, where so many processes with a GPU share this machine's cores."""
    return max(1, min(MOST_WORKERS, usable_cores() // processes - 1))


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Runtime:
    """Made once for a run and handed down, from the session to the trainer.

    Attributes:
        stop: asked between two steps; once it is true, all lanes are saved and the run ends.
    """

    accelerator: Accelerator
    options: Options = field(default_factory=Options)
    events: Events = field(default_factory=NoEvents)
    stop: Callable[[], bool] = _never

    @property
    def rendering(self) -> dict[str, Any]:
        """Return the arguments of the streams: how this process renders its share of the images."""
        on_gpu = self.accelerator.device.type != "cpu"
        default = (
            gpu_workers(int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if on_gpu else 0
        )  # `accelerate launch` sets it
        return {
            "workers": default if self.options.workers is None else self.options.workers,
            "rank": self.accelerator.process_index,
            "world": self.accelerator.num_processes,
            "pin_memory": self.accelerator.device.type == "cuda",
        }
