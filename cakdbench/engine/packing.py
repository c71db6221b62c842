"""Decide which students train side by side: the longest first, as many as time and memory have room for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cakdbench.engine.memory import Peak, known_peak
from cakdbench.engine.work import Work, count_macs
from cakdbench.utils.errors import RAISED

USABLE = 0.7
"""Of a GPU's memory: the rest is left to its context, to workspaces of kernels and to what lies between tensors.

On an H100 lanes took 1.0 to 1.25 of their predicted peaks in bf16, 1.0 to 1.55 in fp32.
"""


@dataclass(frozen=True)
class Load:
    """What a lane takes.

    Attributes:
        work: multiply-adds of its whole training.
        peak: of its memory; None where it cannot be predicted, or bounds nothing.
    """

    work: float = 0.0
    peak: Peak | None = None


@dataclass(frozen=True)
class Room:
    """Bounds what a group may take; a lane that is alone is always let in.

    Attributes:
        lanes: at most.
        work: of all lanes together, the last by its half, so that no process is left with the longest of them when
            the others have ended.
        memory: bytes at the peak of a step; None for no bound.
    """

    lanes: int
    work: float = math.inf
    memory: int | None = None

    def holds(self, loads: Sequence[Load]) -> bool:
        """Return True if lanes with these loads may train side by side."""
        if len(loads) <= 1:
            return True
        fits = self.memory is None or group_peak(loads) <= self.memory
        work = sum(load.work for load in loads) - loads[-1].work / 2
        return fits and len(loads) <= self.lanes and work <= self.work

    def load(self, work: Work) -> Load:
        """Return what a lane takes of what is bounded here."""
        return Load(
            work=training_macs(work) if self.work < math.inf else 0.0,
            peak=known_peak(work) if self.memory is not None else None,
        )


def group_peak(loads: Sequence[Load]) -> int:
    """Return the bytes at the peak of a group: one teacher, what each lane keeps, and the step of the largest."""
    peaks = [load.peak for load in loads if load.peak]
    steps = [peak.total - peak.shared - peak.kept for peak in peaks]
    return max((peak.shared for peak in peaks), default=0) + sum(peak.kept for peak in peaks) + max(steps, default=0)


def divide(loads: Mapping[str, Load], room: Room) -> list[list[str]]:
    """Return the names of lanes that could share a pass over the data, in the groups that they train in by turns."""
    groups: list[list[str]] = []
    left = dict(loads)
    while left:
        group: list[str] = []
        for name in left:
            if room.holds([loads[other] for other in (*group, name)]):
                group.append(name)
        groups.append(group)
        left = {name: load for name, load in left.items() if name not in group}
    return groups


def memory_limit(device: torch.device, stated: float | None) -> int | None:
    """Return the bytes that lanes may take together: as stated in GB, or most of a GPU's; None without a bound."""
    if stated is not None:
        return int(stated * 1e9)
    return int(USABLE * torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else None


_macs: dict[tuple[object, ...], float] = {}


def training_macs(work: Work) -> float:
    """Return the multiply-adds of a whole training, without the teacher's pass; counted once a process."""
    if work.key not in _macs:
        try:
            _macs[work.key] = count_macs(work)[0]
        except RAISED:  # its run says what is wrong with the method
            _macs[work.key] = 0.0
    return _macs[work.key] * work.samples * work.cell.recipe.epochs
