"""A store whose disk fails: never a traceback, and the same command afterwards ends in the same weights."""

import errno
import fcntl
import io
import os
import pty
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from cakdbench.store import Store
from tests.cli_lab import Child, Program, Shell, cakdbench_command, make_folder, renderers

PAIR = "resnet_m>resnet_s@timm:folder/tiny"
ONCE = tuple(f"{name}={value}" for whose in ("recipe", "teacher") for name, value in (
    (f"{whose}.epochs", 1), (f"{whose}.global_batch", 20), (f"{whose}.local_batch", 20)))  # fmt: skip


def run(shell, *more, settings=ONCE):
    return shell.run(*more, pairs=PAIR, settings=settings)


def weights(store):
    records, damage = Store(store).records()
    assert damage == []
    return {record.key: record.weights_sha256 for record in records}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A finished grid: three runs, the teacher's among them."""
    shell = Shell(make_folder(tmp_path_factory.mktemp("data"), 4, 3), tmp_path_factory.mktemp("calm"))
    code, output = run(shell)
    assert code == 0, output
    return shell


@pytest.fixture
def taught(calm, tmp_path):
    """The same grid with only its teacher trained."""
    shell = Shell(calm.data, tmp_path)
    shutil.copytree(calm.store, shell.store)
    for run_folder in shell.store.glob("*-resnet_s-*"):
        shutil.rmtree(run_folder)
    return shell


class Failing:
    """Lets the n-th of a system call on a path of the store fail, once."""

    def __init__(self, monkeypatch, store, owner, name, number, n):
        self.left, self.happened = n, False
        call = getattr(owner, name)

        def failing(path, *arguments, **options):
            if str(path).startswith(str(store)) or isinstance(path, int):
                self.left -= 1
                if self.left == 0:
                    self.happened = True
                    raise OSError(number, os.strerror(number), str(path))
            return call(path, *arguments, **options)

        monkeypatch.setattr(owner, name, failing)


CALLS = [
    (os, "unlink", errno.EACCES, (1, 3)),
    (os, "rmdir", errno.ENOTEMPTY, (1, 2)),
    (os, "scandir", errno.EIO, (1, 4, 9)),
    (os, "replace", errno.ENOSPC, (1, 6, 10)),
    (os, "fsync", errno.EIO, (2, 7, 15)),
    (os, "mkdir", errno.EACCES, (1, 3)),
    (os, "stat", errno.EIO, (2, 11)),
    (io, "open", errno.EACCES, (1, 5)),
]


@pytest.mark.parametrize(
    ("owner", "name", "number", "n"),
    [pytest.param(*call, n, marks=[pytest.mark.slow] * bool(i % 2)) for *call, ns in CALLS for i, n in enumerate(ns)],
    ids=lambda value: str(getattr(value, "__name__", value)),
)  # fmt: skip
def test_a_system_call_that_fails_once_costs_no_result(calm, taught, monkeypatch, owner, name, number, n):
    with monkeypatch.context() as patch:
        fault = Failing(patch, taught.store, owner, name, number, n)
        code, output = run(taught)
    assert fault.happened
    assert code in (0, 1) and "Traceback" not in output, output
    code, output = run(taught)
    assert code == 0 and "Traceback" not in output, output
    assert weights(taught.store) == weights(calm.store)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_told_at_the_start_with_file_and_host(taught, monkeypatch, number):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    code, output = run(taught)
    told = output.splitlines()[-1]
    assert code == 1 and "no working locks" in told and os.uname().nodename in told and str(taught.store) in told
    assert not list(taught.store.glob("*-resnet_s-*"))


def test_a_failure_dated_in_the_future_is_tried_again(calm, taught):
    kd = next(record for record in Store(calm.store).records()[0] if record.label == "kd")
    folder = Store(taught.store).run(kd.identity)
    folder.open(kd.identity, "kd", "demo")
    folder.fail("of another time", attempt="another")
    future = time.time() + 1e6
    os.utime(folder.path / "failure.json", (future, future))
    code, output = run(taught)
    assert code == 0, output
    assert weights(taught.store) == weights(calm.store)


def _with_clock_set_back(*arguments):
    now = time.time
    time.time = lambda: now() - 1e7 * next(backwards)
    backwards = iter(range(10**9))
    cakdbench_command(None, *arguments)


def test_a_clock_set_back_again_and_again_changes_nothing(calm, taught):
    code, output = Child(_with_clock_set_back, *taught.command(pairs=PAIR, settings=ONCE)).finish()
    assert code == 0, output
    assert weights(taught.store) == weights(calm.store)


LONGER = (*(setting for setting in ONCE if setting != "recipe.epochs=1"), "recipe.epochs=6")


@pytest.fixture(scope="module")
def long(calm, tmp_path_factory):
    """The weights of the longer grid, undisturbed."""
    shell = Shell(calm.data, tmp_path_factory.mktemp("long"))
    shutil.copytree(calm.store, shell.store)
    code, output = run(shell, settings=LONGER)
    assert code == 0, output
    return weights(shell.store)


def program(shell, *more, daemon=True):
    return Program(*shell.command(*more, pairs=PAIR, settings=LONGER), daemon=daemon)


def test_a_store_that_goes_away_and_comes_back_has_lost_nothing(calm, long, tmp_path):
    shell = Shell(calm.data, tmp_path)
    shutil.copytree(calm.store, shell.store)
    started = program(shell)
    started.wait_for("kd: epoch 2/6")
    away = shell.store.rename(tmp_path / "away")
    code, output = started.finish()
    assert code == 1 and "Traceback" not in output, output
    assert not shell.store.exists()
    away.rename(shell.store)
    code, output = run(shell, settings=LONGER)
    assert code == 0 and "epoch 1/6" not in output, output
    assert weights(shell.store) == long


def test_a_killed_rendering_process_costs_no_run_and_the_command_goes_on(calm, long, tmp_path):
    shell = Shell(calm.data, tmp_path)
    shutil.copytree(calm.store, shell.store)
    started = program(shell, "--workers", "1", daemon=False)
    started.wait_for("kd: epoch 2/6")
    for renderer in renderers(started.process.pid):
        renderer.kill()
    code, output = started.finish()
    assert code == 0 and "Traceback" not in output, output
    assert "a process that renders images was lost" in output and "failed" not in output
    assert weights(shell.store) == long


def _on_terminal(name, *arguments):
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    os.environ["TERM"] = "xterm"
    terminal = os.open(name, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)
    os.close(terminal)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    cakdbench_command(None, *arguments)


def test_a_closed_terminal_saves_all_lanes(calm, long, tmp_path):
    shell = Shell(calm.data, tmp_path)
    shutil.copytree(calm.store, shell.store)
    ours, theirs = pty.openpty()
    started = Child(_on_terminal, os.ttyname(theirs), *shell.command(pairs=PAIR, settings=LONGER))
    seen = b""
    while b"epoch 2/6" not in seen:
        seen += os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)  # the kernel sends SIGHUP, and writing raises from now on
    code, _ = started.finish()
    assert code == 130
    saved = {path.parents[1].name for path in shell.store.glob("*/checkpoints/step-*.pt")}
    assert len(saved) == 2
    code, output = run(shell, settings=LONGER)
    assert code == 0 and "epoch 1/6" not in output, output
    assert weights(shell.store) == long


def _as_nobody(work, *commands):
    """Give the commands one after the other, as a user who owns nothing here; end with the last exit code but 0."""
    os.chdir(work)
    os.environ |= {"HOME": "own", "XDG_CACHE_HOME": f"{work}/own"}
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    code = 0
    for command in commands:
        AcceleratorState._reset_state()
        try:
            cakdbench_command(None, *command)
        except SystemExit as leaving:
            code = leaving.code or code
    return code


@pytest.fixture
def colleague(calm):
    """A store that may be read and not written, as that of somebody else."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        shutil.copytree(calm.data, work / "data")
        shell = Shell(work / "data", work)
        shutil.copytree(calm.store, shell.store)
        unfinished = next(shell.store.glob("kd-*"))
        for name in ("record.json", "SHA256SUMS", "student.safetensors", "predictions.npy"):
            (unfinished / name).unlink()
        (work / "own").mkdir()
        for folder, _, files in os.walk(shell.store):
            os.chmod(folder, 0o555)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o444)
        for folder, _, _ in os.walk(work / "data"):
            os.chmod(folder, 0o755)
        os.chmod(work, 0o755)
        os.chmod(work / "own", 0o777)
        yield shell
        for folder, _, _ in os.walk(shell.store):
            os.chmod(folder, 0o755)


@pytest.mark.slow
def test_a_store_that_may_only_be_read_is_read(colleague):
    before, store = sorted(colleague.store.rglob("*")), ["--store", str(colleague.store)]
    commands = (
        ["status", *store],
        ["results", str(colleague.store)],
        ["leaderboard", *store, "--boards", "own/boards", "--results", "own/none"],
        colleague.command("--dry-run", pairs=PAIR, settings=ONCE),
        ["clean", "--dry-run", *store],
        ["fsck", *store],
    )
    code, output = Child(_as_nobody, str(colleague.work), *commands).finish()
    assert code == 0 and "error" not in output.lower(), output
    for words in ("2 done", "3 runs checked, 0 damaged", "nothing is left of failed"):
        assert words in output, output
    assert sorted(colleague.store.rglob("*")) == before
