"""Sessions and workers outside of the command: no console, no arguments read again, no signal handlers, no orphans."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cakdbench.engine.launch import local
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.local import LocalLauncher, workers
from cakdbench.engine.launch.said import Hearing, Sayings
from cakdbench.engine.options import RunOptions, from_json, run_options, to_json
from cakdbench.engine.session import Session
from cakdbench.engine.share import Share
from cakdbench.method import Method, Step
from cakdbench.registry import register
from cakdbench.store import Store
from cakdbench.train.events import NoEvents
from cakdbench.utils.errors import UsageError
from tests.cli_lab import PAIR, SHORT

ROOT = Path(__file__).parents[2]
EPOCHS = "recipe.epochs=2"


class Said(NoEvents):
    """Keeps the sentences."""

    def __init__(self):
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


def arguments(tiny: Path, work: Path, methods: str, epochs: str = EPOCHS) -> dict:
    """Return the arguments of `run_options` for a short grid."""
    settings = [epochs if setting == EPOCHS else setting for setting in SHORT]
    return {
        "methods": methods,
        "settings": settings,
        "pairs": PAIR,
        "recipe": "demo",
        "teacher_files": (tiny / "teachers.toml",),
        "store": work / "runs",
        "teacher_dir": work / "teachers",
        "data_dir": tiny,
        "cpu": True,
    }


SCRIPT = """
import signal, sys
from pathlib import Path
from pathlib import PosixPath
with open("begun", "a") as file:
    file.write("once\\n")
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
from cakdbench.engine.launch.local import LocalLauncher
from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
session = Session(run_options(**{arguments}))
outcome = session.run(LocalLauncher(2))
assert not outcome.failed, outcome.failed
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
"""


def start(work: Path, text: str) -> subprocess.Popen:
    """Start a script without a main guard, with arguments that are not cakdbench's."""
    work.mkdir(exist_ok=True)
    (work / "script.py").write_text(text)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "script.py", "ml_notebook", "--helper", "run", "--pairs", "nothing"]
    return subprocess.Popen(command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_a_program_of_its_own_runs_a_grid_with_workers_in_silence(tiny, tmp_path):
    script = SCRIPT.replace("{arguments}", repr(arguments(tiny, tmp_path, "dkd,dist,lskd,rkd")))
    program = start(tmp_path, script)
    output, problems = program.communicate(timeout=400)
    assert program.returncode == 0, problems
    assert output == "" and "Traceback" not in problems
    assert (tmp_path / "begun").read_text() == "once\n"  # no worker has run the script again
    assert len(Store(tmp_path / "runs").records()[0]) == 7


def test_workers_end_with_a_parent_that_is_killed(tiny, tmp_path):
    script = SCRIPT.replace("{arguments}", repr(arguments(tiny, tmp_path, "dkd,dist,lskd,rkd", "recipe.epochs=5000")))
    program = start(tmp_path, script)
    started = Path(tmp_path / "runs").glob
    assert eventually(lambda: children(program.pid) and list(started("dkd-*/checkpoints/*")), 300)
    pids = children(program.pid)
    assert eventually(lambda: all(is_alive(pid) for pid in pids), 1)
    program.kill()
    program.communicate()
    assert eventually(lambda: not any(map(is_alive, pids)), 120)


def test_a_worker_that_fails_is_told_of_at_once_and_replaced_until_that_helps_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(local, "MOST_LOST", 1)
    said, pids = Said(), set()

    def look(crew) -> bool:
        pids.update(worker.process.pid for worker in crew.workers)
        crew.look()
        return not crew.workers

    with workers(Assignment(RunOptions(pairs="nowhere", store=tmp_path)), 1, said) as crew:
        assert eventually(lambda: look(crew), 120)
    assert len(pids) == 3 and len(said.sentences) == 3
    assert all("worker 1" in text and "exit code 2" in text and "nowhere" in text for text in said.sentences)
    assert "another takes its place" in said.sentences[0] and "no other is started" in said.sentences[-1]


@pytest.fixture
def sitting(tmp_path, monkeypatch):
    """Workers that, in place of working, say that they are there and wait; they take no notice of SIGTERM."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path)!r}, f'there-{{os.getpid()}}').write_text(str(sorted(os.environ)))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(local, "SAVE_SECONDS", 0.2)
    return lambda: list(tmp_path.glob("there-*"))


def test_a_worker_that_is_killed_is_replaced_and_one_that_does_not_end_is_killed(sitting, monkeypatch):
    monkeypatch.setenv("RANK", "0")  # of a launch of several processes, which the worker would wait for
    said = Said()
    with workers(Assignment(RunOptions()), 1, said) as crew:
        assert eventually(lambda: len(sitting()) == 1, 20)
        crew.workers[0].process.kill()
        crew.workers[0].process.wait()
        crew.look()
        assert eventually(lambda: len(sitting()) == 2, 20)
        [worker] = crew.workers
    assert "signal 9, Killed: it says nothing" in said.sentences[0]
    assert "did not end in 0.2 s and is killed" in said.sentences[1] and worker.process.returncode == -signal.SIGKILL
    assert all("'PATH'" in path.read_text() and "'RANK'" not in path.read_text() for path in sitting())


def test_what_workers_say_is_told_once_and_in_whole_lines(tmp_path):
    said, folder = Said(), tmp_path / "said"
    hearing = Hearing(folder, said)
    hearing.hear()
    Sayings(folder).say("damaged file\nset aside")
    (folder / "other.txt").write_text("damaged file set aside\nits tape sto")
    hearing.hear()
    assert said.sentences == ["damaged file set aside"]
    with open(folder / "other.txt", "a") as file:
        file.write("ps\n")
    hearing.hear()
    hearing.forget()
    assert said.sentences == ["damaged file set aside", "its tape stops"] and not folder.exists()


def test_a_worker_tells_what_became_of_a_checkpoint_and_ends_when_it_is_asked_to(tiny, tmp_path):
    said, options = Said(), run_options(**arguments(tiny, tmp_path, "", "recipe.epochs=5000"))
    found = (tmp_path / "runs").glob
    with workers(Assignment(options), 1, said) as crew:
        assert eventually(lambda: list(found("*/checkpoints/*")), 200)
        [worker] = crew.workers
    assert worker.process.returncode == 130 and not said.sentences
    checkpoints = {path: path.write_bytes(b"damage") for path in found("*/checkpoints/*.pt")}
    assert checkpoints
    with workers(Assignment(options), 1, said) as crew:
        assert eventually(lambda: crew.look() or said.sentences, 200)
    assert "is damaged" in said.sentences[0] and "going back to the one before" in said.sentences[0]


def test_methods_that_no_file_defines_stay_in_this_process(tiny, tmp_path):
    class Typed(Method):
        def distill_step(self, batch):
            logits = self.student(batch.images).logits
            return Step(logits, {"label": batch.label_loss(logits)})

    Typed.__module__ = "__main__"
    register("typed", title="Typed", paper="none", url="")(Typed)
    said = Said()
    session = Session(run_options(**arguments(tiny, tmp_path, "typed")), said)
    assert LocalLauncher(3).usable_processes(session.plan.cells, said) == 1
    assert "typed" in said.sentences[0]


def test_work_survives_being_written(tiny, tmp_path):
    made = arguments(tiny, tmp_path, "ofa[gamma=1.0|1.5],fbt:no_infonce")
    options = run_options(**made | {"settings": ["ofa.gamma=inf", "recipe.optimizer.name=sgd", "teacher.epochs=1"]})
    assignment = Assignment(options, Share(3, first=2), parent=7, modules=("somewhere",))
    text = to_json(assignment)
    again = from_json(Assignment, text)
    assert again == assignment and again.options.settings.methods["ofa"]["gamma"] == math.inf
    assert isinstance(again.options.store, Path) and isinstance(again.options.methods, tuple)
    assert json.loads(text)["options"]["pairs"] == PAIR


@pytest.mark.parametrize("text", ["", "{", '{"options": 3}', "[]"])
def test_what_is_no_work_is_refused(text):
    with pytest.raises(UsageError, match="Assignment"):
        from_json(Assignment, text)


def test_a_session_leaves_signal_handlers_alone(tiny, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    asked = []

    def stop() -> bool:
        asked.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
        return False

    session = Session(run_options(**arguments(tiny, tmp_path, "", "recipe.epochs=1")), stop=stop)
    assert not session.run(LocalLauncher()).failed
    assert len(asked) > 5 and all(handlers == before for handlers in asked)


def test_a_notebook_may_go_from_one_precision_to_another(tiny, tmp_path):
    for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        session = Session(run_options(**arguments(tiny, tmp_path, "kd"), precision=precision))
        assert session.accelerator.mixed_precision == mixed
