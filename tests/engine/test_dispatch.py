"""How workers on other machines are kept at work: with a crew that does what the test says."""

from dataclasses import dataclass, field

import pytest

from cakdbench.engine.launch import dispatch
from cakdbench.engine.launch.dispatch import Dispatcher
from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.store import Store
from cakdbench.train.events import NoEvents
from cakdbench.utils.errors import CakdError
from tests.cli_lab import PAIR, SHORT


class Said(NoEvents):
    """What was said."""

    def __init__(self):
        self.lines = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Crew:
    """Workers that end at the first look; `act` says why they were lost, and may do their work."""

    act: object
    number: int = 0
    started: list[int] = field(default_factory=list)

    def places(self) -> int:
        return 0

    def at_work(self) -> int:
        return self.number

    def start(self, count: int) -> None:
        self.started.append(count)
        self.number += count

    def ended(self) -> list[str]:
        number, self.number = self.number, 0
        return self.act(number) if number else []

    def leave(self) -> str:
        return "left"


@pytest.fixture
def session(tiny, tmp_path, monkeypatch) -> Session:
    """A grid of scratch and kd by six seeds, whose teacher is a run of its own; looked at without a pause."""
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(dispatch, "VAIN_SECONDS", 0.0)
    options = run_options(
        pairs=PAIR, recipe="demo", settings=SHORT, store=tmp_path / "runs", teacher_dir=tmp_path, data_dir=tiny,
        teacher_files=(tiny / "teachers.toml",), cpu=True, seeds=tuple(range(6)), download=False,
    )  # fmt: skip
    return Session(options, Said())


@pytest.fixture
def tasks(session):
    return session.harness.tasks([cell for cell in session.plan.cells if not cell.needs_teacher])


def finish(task) -> None:
    task.folder.open(task.identity, task.cell.label, task.cell.recipe.name)
    (task.folder.path / "record.json").write_text("{}")


def work(session, tasks, crew):
    return Dispatcher(crew, crew, session.harness)._work(tasks)


def test_all_workers_of_a_node_may_be_lost_at_once(session, tasks):
    """As when it dies, or an array is cancelled; some of them had done something."""
    left = list(tasks)

    def dies(number):
        finish(left.pop())
        return ["node fail"] * number

    crew = Crew(dies)
    assert len(work(session, tasks, crew).done) == 6
    assert crew.started == [6, 5, 4, 3, 2, 1]


def test_workers_that_are_lost_again_and_again_end_the_command(session, tasks):
    crew = Crew(lambda number: ["no such device"] * number)
    with pytest.raises(CakdError, match="workers were lost one after the other, the last so: no such device"):
        work(session, tasks, crew)
    assert sum(crew.started) <= 20


def test_workers_that_compute_other_runs_end_the_command_with_a_hint(session, tasks):
    crew = Crew(lambda number: [])
    with pytest.raises(CakdError, match=f"without a step of {tasks[0].key}.* the same files, data and packages"):
        work(session, tasks, crew)
    assert sum(crew.started) <= 20


def test_whom_it_waits_for_is_said_once(session, tasks, monkeypatch):
    lock = Store(session.store.root).run(tasks[0].identity)
    assert lock.acquire()
    looks = iter(range(3))

    def sleep(seconds):
        if next(looks) == 2:
            finish(tasks[0])
            lock.release()

    monkeypatch.setattr(dispatch.time, "sleep", sleep)
    crew = Crew(lambda number: [])
    assert work(session, tasks[:1], crew).done == [tasks[0].key] and crew.started == []
    (line,) = session.runtime.events.lines
    assert "waiting for 1 runs" in line and str(lock.lock.path) in line
