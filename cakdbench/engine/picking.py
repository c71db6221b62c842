"""Lock the tasks of the next group: the longest first, as many as there is room for."""

import math
from collections.abc import Callable
from dataclasses import replace

from cakdbench.data.datasets import ImageDataset
from cakdbench.engine.packing import Load, Room, memory_limit, training_macs
from cakdbench.engine.share import Share
from cakdbench.engine.task import Task
from cakdbench.engine.work import Work
from cakdbench.store import checkpoint_step
from cakdbench.train.runtime import Runtime
from cakdbench.utils.device import device_name


class Picker:
    """Picks groups for one process.

    Attributes:
        most: of how many lanes a group with a task may be, by the task's key, where memory was short.
    """

    def __init__(self, runtime: Runtime, dataset: Callable[[str], ImageDataset]):
        self.options = runtime.options
        self.device = runtime.accelerator.device
        self.dataset = dataset
        self.most: dict[str, int] = {}

    def lock(self, pending: list[Task], share: Share, total: int) -> list[Task]:
        """Lock the tasks of one group; those that found no memory come last, in ever smaller groups."""
        if share.processes > 1:
            pending = sorted(pending, key=self._macs, reverse=True)
        room = self._room(pending, share, total)
        bounds: dict[int, list[Task]] = {}
        for task in pending:
            bounds.setdefault(self.most.get(task.key, room.lanes), []).append(task)
        for most in sorted(bounds, reverse=True):
            if group := self._lock_within(replace(room, lanes=min(most, room.lanes)), bounds[most], share):
                return _same_step(group)
        return []

    def _lock_within(self, room: Room, pending: list[Task], share: Share) -> list[Task]:
        device = device_name(self.device)
        names = list(dict.fromkeys(task.cell.shared for task in pending))
        start = share.first % max(1, len(names))
        for shared in names[start:] + names[:start]:
            group: dict[str, Load] = {}
            for task in pending:
                if task.cell.shared == shared and len(group) < room.lanes:
                    load = room.load(self._work(task))
                    if room.holds([*group.values(), load]) and _acquire(task, device):
                        group[task.key] = load
            if group:
                return [task for task in pending if task.key in group]
        return []

    def _room(self, pending: list[Task], share: Share, total: int) -> Room:
        """Return what a group may take; near the end, where it matters, no more than its share of what nobody has."""
        options, work = self.options, math.inf
        if 1 < share.processes and len(pending) < 2 * share.processes * options.max_lanes:
            pending = [task for task in pending if task.folder.state() not in ("running", "done")]
            work = sum(map(self._macs, pending)) / share.processes
        lanes = min(options.max_lanes, share.lanes(len(pending), total))
        return Room(lanes, work, memory_limit(self.device, options.memory))

    def _work(self, task: Task) -> Work:
        """Return what is to be computed for a task."""
        dataset = self.dataset(task.cell.pair.dataset)
        return Work(task.cell, dataset.num_classes, len(dataset.train))

    def _macs(self, task: Task) -> float:
        return training_macs(self._work(task))


def _acquire(task: Task, device: str) -> bool:
    """Lock a task that is not done; False if it is, or if a live process has it."""
    if task.folder.is_done or not task.folder.acquire(device):
        return False
    if task.folder.is_done:  # another process finished it in between
        task.folder.release()
        return False
    return True


def _same_step(group: list[Task]) -> list[Task]:
    """Return the tasks that stand where the first does; the others are released, for a group of their own."""
    steps = {task.key: checkpoint_step(task.folder.checkpoints) for task in group}
    together = [task for task in group if steps[task.key] == steps[group[0].key]]
    for task in group:
        if task not in together:
            task.folder.release()
    return together
