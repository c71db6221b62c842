"""The numbers of a group's speed, and what follows from them."""

from dataclasses import asdict, dataclass, field
from typing import Any

HOST_BOUND = 0.95
"""Part of a step's time in which its kernels are issued, above which the GPU waits for the host."""


@dataclass
class LaneSpeed:
    """One lane's numbers; seconds are of one local batch.

    Attributes:
        first_step: seconds of the first step, compilation and the choice of kernels included.
        phases: seconds by part, each bracketed by waits for the device; medians.
        alone: images/s of the lane alone with its teacher on resident data.
        macs: multiply-adds per image of student and method, forward and backward; None if they cannot be counted.
        evaluation: images/s of its student, and its averaged weights, on resident data.
        checkpoint: seconds.
        peak_memory_mb: of its step, as if it trained alone; the teacher's weights and pass are in it.
    """

    method: str
    first_step: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    alone: float = 0.0
    macs: float | None = None
    evaluation: float = 0.0
    checkpoint: float = 0.0
    peak_memory_mb: float | None = None


@dataclass
class GroupSpeed:
    """A group's numbers, all lanes together; images/s count an image once, however many lanes see it.

    Attributes:
        data: "at hand", or "synthetic".
        rendering: images/s of the rendering processes alone; rendering_core: of one core.
        transfer, teacher: seconds of one local batch.
        ceiling: images/s of the bare step of all lanes on resident data.
        trainer: images/s of the real trainer: rendered, moved, taught, trained, metrics read.
        issue: seconds in which the host issues the bare step's kernels to a GPU.
        matrix_rate: multiply-adds/s of a large product in the precision. teacher_macs: per image.
        failed: lanes that raise, with their reasons.
    """

    pair: str
    recipe: str
    precision: str
    image_size: int
    local_batch: int
    accumulation: int
    data: str
    device: str
    threads: int
    workers: int
    compiled: bool
    channels_last: bool
    versions: dict[str, str]
    finished: str = ""
    rendering: float = 0.0
    rendering_core: float = 0.0
    transfer: float = 0.0
    teacher: float = 0.0
    teacher_macs: float = 0.0
    ceiling: float = 0.0
    trainer: float = 0.0
    issue: float = 0.0
    matrix_rate: float = 0.0
    peak_memory_mb: float | None = None
    lanes: list[LaneSpeed] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Return the trainer's speed over the ceiling."""
        return self.trainer / self.ceiling if self.ceiling else 0.0

    @property
    def together_saves(self) -> float:
        """Return the time of all lanes one after the other over that of all together, on resident data."""
        return self.ceiling * sum(1 / lane.alone for lane in self.lanes if lane.alone)

    @property
    def achieved(self) -> float | None:
        """Return the part of the device's matrix rate that the trainer reaches; None if work cannot be counted."""
        macs = [lane.macs for lane in self.lanes if lane.macs is not None]
        if not self.matrix_rate or len(macs) < len(self.lanes):
            return None
        return self.trainer * (sum(macs) + self.teacher_macs) / self.matrix_rate

    @property
    def parts(self) -> dict[str, float]:
        """Return seconds of one local batch of all lanes by part."""
        rendering = self.local_batch / self.rendering if self.rendering else 0.0
        parts = {"rendering": rendering, "transfer": self.transfer, "teacher": self.teacher}
        for lane in self.lanes:
            for name, seconds in lane.phases.items():
                parts[name] = parts.get(name, 0.0) + seconds
        return parts

    @property
    def binds(self) -> str:
        """Return what the step waits for most: rendering, the host that issues kernels, or a part of the step."""
        rendered_ahead = self.workers > 0
        if rendered_ahead and 0 < self.rendering < self.ceiling:
            return "rendering"
        if self.issue * self.ceiling > HOST_BOUND * self.local_batch:
            return "the host, which issues kernels"
        parts = {name: seconds for name, seconds in self.parts.items() if name != "rendering" or not rendered_ahead}
        return max(parts, key=lambda name: parts[name])

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values, those that follow from others too."""
        derived = {name: getattr(self, name) for name in ("ratio", "together_saves", "achieved", "parts", "binds")}
        return asdict(self) | derived
