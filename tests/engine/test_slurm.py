"""Jobs through submitit, whose local executor runs them as processes of this machine as Slurm would on its nodes."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import save_file

from cakdbench.engine.launch import slurm
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.choice import parse_slurm
from cakdbench.engine.launch.place import Place
from cakdbench.engine.launch.slurm import Labour, SlurmCrew, _executor, grid_name
from cakdbench.engine.options import RunOptions, run_options
from cakdbench.engine.run_log import log_file
from cakdbench.models.staged import StagedModel
from cakdbench.store import Store, checkpoint_files
from cakdbench.utils.errors import UsageError
from tests.cli_lab import SHORT, Program, Shell
from tests.engine.chain_lab import RUNS, files, grid, kill, two_teachers, wait_for_training
from tests.engine.test_kill import Ordeal, results

GRID = ("--checkpoint-seconds", "999", "--launcher", "slurm")
EPOCHS = ("recipe.epochs=8", "teacher.epochs=1")


def command(shell: Shell, *more: str) -> list[str]:
    return shell.command(*GRID, *more, settings=(*SHORT, *EPOCHS))


def jobs(store: Path) -> list[psutil.Process]:
    """Return the processes that compute; each is the child of one that plays Slurm."""
    programs = psutil.process_iter(["cmdline"])
    return [p for p in programs if {"submitit.core._submit"} & set(p.info["cmdline"] or ()) and _of(p, store)]


def _of(process: psutil.Process, store: Path) -> bool:
    return any(str(store) in word for word in process.info["cmdline"])


def wait_for(condition, patience: float = 200) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.05)


def lanes_in_training(store: Path) -> list:
    return [run for run in Store(store).runs() if "-vit_xs-" in run.key and checkpoint_files(run.checkpoints)]


def weights(store: Path) -> dict[str, str]:
    return {record.key: record.weights_sha256 for record in Store(store).records()[0]}


@pytest.mark.slow
def test_a_preempted_job_saves_goes_back_to_the_queue_and_ends_in_the_same_weights(tiny, tmp_path):
    alone, shell = Shell(tiny, tmp_path / "alone"), Shell(tiny, tmp_path / "slurm")
    code, output = alone.run(settings=(*SHORT, *EPOCHS))
    assert code == 0, output
    first = Program(*command(shell, "--slurm", "cluster=local"))
    wait_for(lambda: lanes_in_training(shell.store))
    (job,) = jobs(shell.store)
    job.send_signal(signal.SIGUSR2)
    wait_for(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    logs = "".join(path.read_text() for path in (shell.store / ".slurm").rglob("*_log.err"))
    assert "preempted" in logs and "interrupted; saved" in log_file(lanes_in_training(shell.store)[0].path).read_text()
    wait_for(lambda: jobs(shell.store))
    os.kill(first.process.pid, signal.SIGINT)
    first.wait_for("1 jobs go on", "scancel")
    assert jobs(shell.store)
    code, output = Program(*command(shell, "--slurm", "cluster=local")).finish()
    assert code == 0, output
    assert first.finish()[0] == 130  # its output ends with the jobs
    assert weights(shell.store) == weights(alone.store) and len(weights(alone.store)) == 3


@pytest.mark.slow
def test_a_chain_and_two_teachers_end_in_the_files_of_one_process_whatever_job_is_killed(tiny, tmp_path):
    teachers, settings = two_teachers(tmp_path), (*SHORT, "recipe.epochs=8")
    alone, shell = Shell(tiny, tmp_path / "alone"), Shell(tiny, tmp_path / "slurm")
    code, output = alone(*grid(alone, teachers, settings=settings))
    assert code == 0, output
    local = "--launcher", "slurm", "--slurm", "cluster=local", "--jobs", "2"
    program, ordeal = Program(*grid(shell, teachers, *local, settings=settings)), Ordeal()
    for student in ("mixer_xs", "mobilenet_s"):
        wait_for_training(shell.store, student)
        kill(jobs(shell.store))
        ordeal.look(shell.store)
    code, output = program.finish()
    assert code == 0, output
    ordeal.look(shell.store)
    assert output.count("a worker was lost") >= 2 and (ordeal.lost, ordeal.repeated) == ([], [])
    assert results(shell.store) == results(alone.store) and len(ordeal.finished) == RUNS
    assert files(shell.store) == files(alone.store)


def test_a_wrong_teacher_is_found_before_any_student_is_sent(tiny, tmp_path):
    """It guesses, where its entry says that it knows."""
    shell = Shell(tiny, tmp_path)
    save_file(StagedModel("resnet_m", 10, 64).export_state(), tmp_path / "w.safetensors")
    entry = ("[[teachers]]", 'model = "resnet_m"', 'dataset = "timm:folder/tiny"', 'path = "w.safetensors"')
    (tmp_path / "wrong.toml").write_text("\n".join([*entry, "accuracy = 99.0"]))
    teacher = ("--teachers", str(tmp_path / "wrong.toml"), "--teacher-dir", str(tmp_path))
    code, output = Program(*command(shell, *teacher, "--slurm", "cluster=local")).finish()
    assert code == 1 and "Traceback" not in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "no student was trained" in error and "99.00" in error
    assert not list(shell.store.glob("*-vit_xs-*/log.txt"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "slurm"),
        (("--slurm", "cluster=local", "--slurm", "partitoin=gpu"), "partitoin"),
        (("--slurm", "gpu"), "KEY=VALUE"),
        (("--slurm", "cluster=debug"), "unknown cluster 'debug'"),
        (("--slurm", "cluster=local", "--slurm", "time=long"), "write minutes, or as Slurm"),
    ],
)
def test_what_no_job_can_be_made_of_is_refused_in_one_line(tiny, tmp_path, settings, words):
    code, output = Program(*command(Shell(tiny, tmp_path), *settings)).finish()
    assert code == 2 and words in output.splitlines()[0] and "Traceback" not in output, output


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that puts a shell script into the place of one of Slurm's programs."""

    def put(name: str, *lines: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["#!/bin/sh", *lines]))
        path.chmod(0o755)

    put("srun")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return put


REFUSAL = 'echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1'


def crew(folder: Path) -> SlurmCrew:
    return SlurmCrew("{}", _executor(folder, {"partition": "nosuch"}, RunOptions()), folder)


@pytest.mark.parametrize("count", [1, 3])
def test_what_slurm_says_of_jobs_that_it_does_not_take_is_the_error(program, tmp_path, count):
    program("sbatch", REFUSAL)
    with pytest.raises(UsageError, match="--launcher slurm: sbatch: error: .* Invalid partition name"):
        crew(tmp_path / "jobs").start(count)


def test_a_later_refusal_is_a_lost_worker(program, tmp_path):
    program("sbatch", "echo Submitted batch job 7")
    program("sacct", "echo 'JobID|State|NodeList'", "echo '7|RUNNING|n1'")
    workers = crew(tmp_path / "jobs")
    workers.start(1)
    program("sbatch", REFUSAL)
    workers.start(2)
    assert [job.job_id for job in workers.jobs] == ["7"]
    assert [line.partition("failed: ")[2] for line in workers.ended()] == ["Invalid partition name specified"]
    assert workers.ended() == [] and workers.at_work() == 1


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("240", 240),
        ("90:30", 91),
        ("4:00:00", 240),
        ("0:00:20", 1),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("2-00:00:30", 2881),
    ],
)
def test_a_time_as_slurm_writes_it_is_minutes_for_submitit(tmp_path, text, minutes):
    executor = _executor(tmp_path, {"cluster": "local", "time": text}, RunOptions())
    assert executor.parameters["timeout_min"] == minutes


@pytest.mark.parametrize(
    ("sent", "state", "handled"),
    [
        (signal.SIGUSR2, "", signal.SIGUSR2),
        (signal.SIGUSR1, "", signal.SIGUSR2),
        (signal.SIGTERM, "RUNNING", signal.SIGUSR2),
        (signal.SIGTERM, "COMPLETING", signal.SIGTERM),  # by scancel
        (signal.SIGTERM, "", signal.SIGTERM),
    ],
)
def test_a_job_that_is_to_go_is_requeued_once_it_has_saved(program, monkeypatch, sent, state, handled):
    """submitit requeues at USR2, and passes by SIGTERM."""
    seen = []
    program("squeue", f'test "$3" = --jobs=7_1 && echo {state}')
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)

    def saves(text, processes, number, stop):
        signal.raise_signal(sent)
        seen.append(stop())

    monkeypatch.setattr(slurm, "labour", saves)
    before = {number: signal.signal(number, lambda n, frame: seen.append(n)) for number in (handled, signal.SIGUSR2)}
    try:
        assert Labour("{}", 1)(0) is None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [True, handled]


def test_settings_of_jobs_are_read():
    assert parse_slurm(["partition=gpu", "constraint=a100|h100", "comment=a=b"]) == {
        "partition": "gpu", "constraint": "a100|h100", "comment": "a=b",
    }  # fmt: skip
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_slurm(["=3"])


def test_the_same_command_looks_for_its_jobs_where_the_first_one_left_them():
    """Slurm itself says whether they run; of processes of this machine only their parent knows."""

    def named(files=(), **more):
        options = run_options("kd", pairs="demo", store=Path("/shared/runs"), **more)
        place = Place("login1", Path("/home"), options.store, "token", dict(files), {})
        return options.computing.attempt, grid_name(Assignment(options, place=place))

    (first, name), (again, same) = named(), named()
    assert first != again and name == same
    others = [named(seeds=(1,)), named(tape=("logits",)), named({"/home/my_kd.py": "edited"})]
    assert len({name, *(other for _, other in others)}) == 4
