"""Work through a grid with workers on other machines: this process starts them, looks at the store, and tells.

A worker computes one group and ends. It is lost at no price but its minutes: what it had locked is free again, and
the next worker goes on from its last checkpoints.
"""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cakdbench.data.renderers import RendererLost
from cakdbench.engine.harness import Harness, Outcome
from cakdbench.engine.launch.assignment import Assignment, local_methods, modules_of
from cakdbench.engine.launch.place import absolute, place_of
from cakdbench.engine.launch.said import Hearing, said_folder
from cakdbench.engine.launch.worker import work_through
from cakdbench.engine.options import RunOptions, from_json
from cakdbench.engine.run_log import read_pace
from cakdbench.engine.share import Share
from cakdbench.engine.task import Task, steps_of, waited_for
from cakdbench.grid.plan import Cell
from cakdbench.train.events import GroupRow
from cakdbench.train.trainer import Interrupted
from cakdbench.utils.errors import CakdError, TeacherError, UsageError

LOOK_SECONDS, SHOW_SECONDS = 1.0, 5.0
MOST_IN_VAIN = 5
"""Workers that may end, besides one for every place, without a step forward between them."""
VAIN_SECONDS = 120.0
"""So long it may take until a file server shows here what a worker has done."""


class Crew(Protocol):
    """Workers of a cluster, each a task or a job of it that calls `labour`."""

    def places(self) -> int:
        """Return how many workers can be at work at a time; 0 if only the cluster knows."""

    def at_work(self) -> int:
        """Count the workers that were started and have not ended; some may wait in the cluster's queue."""

    def start(self, count: int) -> None:
        """Start more of them."""

    def ended(self) -> list[str]:
        """Return why workers were lost since the last call.

        Raises:
            CakdError: a worker met it: it cannot be mended by another try.
        """

    def leave(self) -> str:
        """Do what is to be done when the user stops; returns it as a sentence."""


def assign(cells: list[Cell], harness: Harness, options: RunOptions) -> Assignment:
    """Return the work for other machines, with what they must have for it.

    Raises:
        UsageError: others cannot do it.
    """
    if local := local_methods(cells):
        raise UsageError(f"other machines cannot see {', '.join(local)}: write it into a file for --method-file")
    if harness.accelerator.num_processes > 1:
        raise UsageError("a run over several processes is started without --launcher: accelerate launch does it")
    options = replace(absolute(options), gpus=())
    place = place_of(options, cells, harness)
    said = said_folder(options)
    return Assignment(options, Share(once=True), modules=modules_of(cells), place=place, said=said)


def labour(
    text: str, processes: int, first: int, stop: Callable[[], bool], workers: int | None = None
) -> CakdError | None:
    """Compute one group of an assignment; returns what no other try can mend, under the name of this machine.

    Args:
        processes, first: see `Share`. workers: that render, where the user named no number.
    """
    assignment = from_json(Assignment, text)
    options = assignment.options
    if options.computing.workers is None:
        options = replace(options, computing=replace(options.computing, workers=workers))
    share = replace(assignment.share, processes=processes, first=first)
    try:
        work_through(replace(assignment, options=options, share=share), stop)
    except Interrupted:
        return None
    except RendererLost:  # another try may help, as with a worker that was lost itself
        raise
    except CakdError as error:
        host = platform.node()
        return error if host in str(error) else type(error)(f"{host}: {error}")
    return None


class InVain:
    """Counts workers that end without a step forward between them.

    Attributes:
        lost: why workers were lost. quiet: how many ended by themselves.
    """

    def __init__(self, crew: Crew):
        self.crew = crew
        self.lost: list[str] = []
        self.quiet = 0
        self._most, self._stand, self._since = 0, (0, 0), time.monotonic()

    def note(
        self, lost: list[str], quiet: int = 0, at_work: int = 1, stand: tuple[int, int] = (0, 0), key: str = ""
    ) -> None:
        """Count workers that have ended of `at_work`; `key` is of a run that is left.

        Args:
            stand: how far the work is.

        Raises:
            CakdError: they are too many.
        """
        if stand != self._stand:
            self.lost, self.quiet = [], 0
            self._most, self._stand, self._since = 0, stand, time.monotonic()
        self.lost, self.quiet, self._most = self.lost + lost, self.quiet + quiet, max(self._most, at_work)
        bound = MOST_IN_VAIN + max(self._most, self.crew.places())
        if len(self.lost) > bound:
            raise CakdError(f"{len(self.lost)} workers were lost one after the other, the last so: {self.lost[-1]}")
        if self.quiet > bound and time.monotonic() - self._since > VAIN_SECONDS:
            hint = "look whether all machines have the same files, data and packages, as they were when it began"
            raise CakdError(f"{self.quiet} workers ended without a step of {key}, as if they had other runs: {hint}")


class Dispatcher:
    """Keeps a crew at work until a grid is done.

    Args:
        verifier: a crew whose workers only verify the teachers, see `Assignment.verify`.
        jobs: workers at most; None for as many as there are places or groups.
        said: folder with what workers have to say, as their assignment has it.
    """

    def __init__(self, crew: Crew, verifier: Crew, harness: Harness, jobs: int | None = None, said: Path | None = None):
        self.crew = crew
        self.verifier = verifier
        self.harness = harness
        self.events = harness.runtime.events
        self.jobs = jobs
        self.hearing = Hearing(said, self.events)
        self._vain = InVain(crew)
        self._at_work = crew.at_work()  # when this process looked last
        self._shown = 0.0
        self._waits = False

    def run(self, cells: list[Cell]) -> Outcome:
        """Compute what is not done, teachers first; see `Launcher.launch`."""
        verified = self.crew.at_work() > 0  # workers of an earlier command, which has had them verified
        if not verified:
            self.hearing.forget()
        trainings = self.harness.trainings(cells)
        self.harness.remember_failures(trainings)
        self.harness.mend_teachers(trainings)
        for key, reason in self._work([task for task in trainings if not task.folder.is_done]).failed.items():
            raise TeacherError(f"training the teacher {key} failed: {reason}")
        outcome = self.harness.in_waves(cells, self._work if verified else self._verify_and_work)
        self.hearing.forget()
        return outcome

    def _verify_and_work(self, tasks: list[Task]) -> Outcome:
        self._verify(tasks)
        return self._work(tasks)

    def _verify(self, tasks: list[Task]) -> None:
        """Let one worker verify the teachers, before any other is sent: this machine may have no GPU to do it with.

        Raises:
            TeacherError: one is not what its entry says.
        """
        if not any(task.cell.needs_teacher and not task.folder.is_done for task in tasks):
            return
        self.events.say("a worker verifies the teachers first")
        lost = InVain(self.crew)
        if not self.verifier.at_work():
            self.verifier.start(1)
        while True:
            self.hearing.hear()
            if reasons := self.verifier.ended():
                lost.note(reasons)
                self.verifier.start(1)
            elif not self.verifier.at_work():
                return
            if self.harness.runtime.stop():
                raise Interrupted(f"interrupted: {self.verifier.leave()}")
            time.sleep(LOOK_SECONDS)

    def _work(self, tasks: list[Task]) -> Outcome:
        outcome, pending = Outcome(), {task.key: task for task in tasks}
        while True:
            self._settle(pending, outcome)
            self.hearing.hear()
            self.events.grid(len(outcome.done), len(outcome.failed), len(tasks))
            if not pending:
                return outcome
            if self.harness.runtime.stop():
                raise Interrupted(f"interrupted: {self.crew.leave()}")
            self._note_ends(list(pending.values()))
            self._start(list(pending.values()))
            self._show(pending.values())
            time.sleep(LOOK_SECONDS)

    def _settle(self, pending: dict[str, Task], outcome: Outcome) -> None:
        """Move what has ended to the outcome."""
        for key, task in list(pending.items()):
            if task.folder.is_done:
                outcome.done.append(pending.pop(key).key)
            elif reason := self.harness.new_failure(task):
                outcome.failed[pending.pop(key).key] = reason

    def _note_ends(self, pending: list[Task]) -> None:
        """Say which workers were lost.

        Raises:
            CakdError: workers end again and again, and nothing comes of it.
        """
        reasons = self.crew.ended()
        for reason in reasons:
            self.events.say(f"a worker was lost ({reason}); its runs go on from their last checkpoints")
        before, self._at_work = self._at_work, self.crew.at_work()
        quiet = before - self._at_work - len(reasons)
        if quiet > 0 and any(task.folder.state() == "running" for task in pending):
            quiet = 0  # others leave them nothing to do
        if reasons or quiet > 0:
            self._vain.note(reasons, max(quiet, 0), before, (len(pending), steps_of(pending)), pending[0].key)

    def _start(self, pending: list[Task]) -> None:
        most = self.jobs or max(self.crew.places(), self._groups(pending))
        wanted = most - self.crew.at_work()
        free = sum(task.folder.state() not in ("running", "done") for task in pending) if wanted > 0 else 0
        if free:
            self.crew.start(1 if self._vain.quiet else min(wanted, free))
        elif not self._waits and not self.crew.at_work():
            self._waits = True
            self.events.say(waited_for(pending))
        self._at_work = self.crew.at_work()

    def _groups(self, pending: Iterable[Task]) -> int:
        counts = Counter(task.cell.shared for task in pending)
        return sum(math.ceil(count / self.harness.runtime.options.max_lanes) for count in counts.values())

    def _show(self, pending: Iterable[Task]) -> None:
        if time.monotonic() - self._shown > SHOW_SECONDS:
            self._shown = time.monotonic()
            self.events.groups(_rows(task for task in pending if task.folder.state() == "running"))


def _rows(tasks: Iterable[Task]) -> list[GroupRow]:
    """Return how the groups stand that the tasks belong to, each by the lane that is least far."""
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.cell.shared, []).append(task)
    return [_row(group) for group in groups.values()]


def _row(group: list[Task]) -> GroupRow:
    cell = group[0].cell
    students = ", ".join(dict.fromkeys(task.cell.pair.student for task in group))
    paces = filter(None, (read_pace(task.folder.path) for task in group))
    last = min(paces, key=lambda pace: pace.step, default=None)
    pair = f"{cell.pair.teacher} > {students} @ {cell.pair.dataset}"
    return GroupRow(f"{pair}, {cell.recipe.name}, seed {cell.seed}", len(group), str(last or "begins"))
