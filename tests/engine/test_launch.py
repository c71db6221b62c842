"""How processes share the work, and what each is told."""

import heapq
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cakdbench
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.choice import Launch
from cakdbench.engine.launch.local import share_machine, workers
from cakdbench.engine.launch.place import TOKEN, _token, absolute, place_of
from cakdbench.engine.memory import Peak
from cakdbench.engine.options import RunOptions, run_options
from cakdbench.engine.packing import Load, Room, group_peak
from cakdbench.engine.preview import Preview
from cakdbench.engine.session import Session
from cakdbench.engine.share import Share
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.registry import methods_named
from cakdbench.store import Store
from cakdbench.train.events import NoEvents
from cakdbench.train.runtime import Options
from cakdbench.utils import device
from cakdbench.utils.errors import UsageError


@pytest.mark.parametrize(
    ("left", "jobs", "share"),
    [(12, 1, 12), (12, 2, 6), (13, 2, 7), (12, 3, 4), (5, 3, 4), (12, 6, 2), (3, 2, 4), (400, 2, 200), (12, 24, 1)],
)
def test_no_process_takes_more_than_its_share_and_few_lanes_are_spread_thin(left, jobs, share):
    assert Share(jobs).lanes(left, max(left, 12)) == share


@pytest.mark.parametrize(
    ("methods", "pairs", "seeds", "parts"),
    [
        ([], "resnet_m>vit_xs@fashion_demo", (0,), 2),
        (["fbt", "ofa"], "resnet_m>vit_xs@fashion_demo", (0,), 4),
        (["fbt", "ofa"], "demo", (0, 1), 24),
    ],
)
def test_as_many_processes_are_of_use_as_there_are_lanes_left(methods, pairs, seeds, parts):
    plan = make_plan(methods, resolve_pairs(pairs), seeds, Settings())
    assert Preview([(cell, "planned") for cell in plan.cells]).parts == parts
    assert Preview([(cell, "done") for cell in plan.cells]).parts == 0


def schedule(lanes: list[tuple[object, float]], processes: int, a_pass: float, most: int = 16) -> float:
    """Return when the last of several processes ends that take groups as `Harness` does.

    Args:
        lanes: what they share a pass by, and how long each takes.
        a_pass: how long the teacher and the rendering take in every group.
    """
    left, free, total = sorted(lanes, key=lambda lane: -lane[1]), [(0.0, n) for n in range(processes)], len(lanes)
    while left:
        now, number = heapq.heappop(free)
        names = list(dict.fromkeys(name for name, _ in left))
        near_end = 1 < processes and len(left) < 2 * processes * most
        work = sum(seconds for _, seconds in left) / processes if near_end else math.inf
        room = Room(min(most, Share(processes).lanes(len(left), total)), work)
        group: list[tuple[object, float]] = []
        for lane in [lane for lane in left if lane[0] == names[number % len(names)]]:
            if room.holds([Load(seconds) for _, seconds in (*group, lane)]):
                group.append(lane)
        for lane in group:
            left.remove(lane)
        heapq.heappush(free, (now + a_pass + sum(seconds for _, seconds in group), number))
    return max(now for now, _ in free)


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
def test_the_demo_grid_takes_little_longer_than_its_work_divided_by_the_processes(processes):
    """With the seconds that its lanes took by their records; a pass takes as long as half a lane of KD."""
    runs = cakdbench.load_results("leaderboards/results").query("dataset == 'fashion_demo'")
    measured = runs.groupby(["method", "student"]).seconds.mean()
    plan = make_plan(list(methods_named("all")), resolve_pairs("demo"), (0, 1, 2), Settings())
    lanes = [(cell.shared, measured[cell.label, cell.pair.student]) for cell in plan.cells]
    alone = schedule(lanes, 1, 35.0)
    assert schedule(lanes, processes, 35.0) < 1.1 * alone / processes


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_gpus_are_named_as_the_process_sees_them(four_gpus):
    assert device.visible_gpus() == ["0", "1", "2", "3"]
    assert device.visible_gpus((3, 1)) == ["3", "1"]
    four_gpus.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,5,7")
    assert device.visible_gpus((0, 3)) == ["GPU-a", "7"]
    with pytest.raises(UsageError, match="--gpus 4: no such GPU on this machine .0 to 3."):
        device.visible_gpus((0, 4))


def test_a_gpu_is_asked_for_in_vain_on_a_machine_without(shell):
    code, output = shell.run("--gpus", "1", "--methods", "kd")
    assert code == 0, output  # --cpu leaves them alone
    with pytest.raises(UsageError, match="there is none"):
        device.make_accelerator(gpus=(1,))


def test_every_worker_sees_a_gpu_of_its_own(tmp_path, monkeypatch):
    """The real processes, which show their environment in place of working."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        f"file = pathlib.Path({str(tmp_path)!r}, f'seen-{{os.getpid()}}')\n"
        "file.write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))\n"
        "os._exit(0)\n"
    )
    for count, gpus, seen in (
        (3, ["4", "5", "7", "9"], ["5", "7", "9"]),
        (3, ["4", "5"], ["4", "5", "5"]),
        (1, [], ["all"]),
    ):
        with workers(Assignment(RunOptions()), count, NoEvents(), gpus) as crew:
            for worker in crew.workers:
                worker.process.wait()
        assert sorted(path.read_text() for path in tmp_path.glob("seen-*")) == seen
        for path in tmp_path.glob("seen-*"):
            path.unlink()


OWN = {
    "mine.toml": "",
    "mine.py": "import beside\n",
    "beside.py": "WEIGHT = 1.0\n",
    "suite.toml": 'board = "b"\n[suites.s]\ntitle = "S"\nrecipe = "short.toml"\n'
    'pairs = ["resnet_m>vit_xs@fashion_demo"]\n',
    "short.toml": 'extends = "base.toml"\ntitle = "T"\nsource = "S"\nepochs = 1\n',
    "base.toml": 'extends = "demo"\ntitle = "T"\nsource = "S"\n',
}
"""Files of a user: a teacher's entries, a method with what it imports, a suite, its recipe with what that extends."""


@pytest.fixture
def options(tmp_path, monkeypatch) -> RunOptions:
    monkeypatch.chdir(tmp_path)
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    files = {"teacher_files": (Path("mine.toml"),), "store": tmp_path / "runs"}
    options = absolute(replace(run_options("kd", pairs="suite.toml", **files), method_files=(Path("mine.py"),)))
    assert options.teacher_dir == tmp_path / "teachers"
    return options


def test_another_machine_must_have_what_this_one_has(options):
    place = place_of(options)
    place.check()
    assert place_of(options).token == place.token
    for other, words in (
        (
            replace(place, versions=place.versions | {"torch": "2.0.1"}),
            f"where {place.host} has 2.0.1: install the same",
        ),
        (replace(place, files={"/nowhere/kd.py": ""}), "kd.py: put it into a folder that all machines share"),
        (replace(place, store=options.store.parent / "other"), "does not see the store .*--store"),
    ):
        with pytest.raises(UsageError, match=words):
            other.check()
    (options.store / TOKEN).write_text("another store on the same path")
    with pytest.raises(UsageError, match="does not see the store"):
        place.check()


@pytest.mark.parametrize("name", OWN)
def test_a_file_that_is_another_there_is_refused_by_its_name(options, tmp_path, name):
    place = place_of(options)
    (tmp_path / name).write_text(OWN[name] + "# edited\n")
    with pytest.raises(UsageError, match=f"{name} is another on .* when the command began"):
        place.check()
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"does not see .*{name}"):
        place.check()


def test_other_images_and_other_weights_are_refused_by_their_names(tiny, tmp_path):
    data, weights = "timm:folder/tiny", tmp_path / "w.safetensors"
    (tmp_path / "mine.toml").write_text(f'[[teachers]]\nmodel = "resnet_m"\ndataset = "{data}"\npath = "w.safetensors"')
    weights.write_bytes(b"weights")
    places = {"store": tmp_path / "runs", "data_dir": tiny, "teacher_files": (tmp_path / "mine.toml",), "cpu": True}
    options = absolute(run_options("kd", pairs=f"resnet_m>vit_xs@{data}", recipe="demo", download=False, **places))
    session = Session(options)
    place = place_of(options, session.plan.cells, session.harness)
    place.check_data(session.harness.dataset)
    with pytest.raises(UsageError, match=f"other images of {data}"):
        replace(place, data={data: "0123"}).check_data(session.harness.dataset)
    weights.write_bytes(b"others!")
    with pytest.raises(UsageError, match="w.safetensors is another"):
        place.check()


def test_of_many_that_begin_a_store_at_once_all_have_the_same_token(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            tokens = set(pool.map(_token, [tmp_path / f"store-{number}" / TOKEN] * 8))
            assert len(tokens) == 1 and len(tokens.pop()) == 32
    assert {path.name for path in tmp_path.glob("*/.*")} == {TOKEN}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--slurm", "partition=gpu"), "--slurm is for --launcher slurm"),
        (("--ray-address", "auto"), "--ray-address is for --launcher ray"),
        (("--gpu-share", "0.5", "--launcher", "slurm"), "--gpu-share is for --launcher ray"),
        (("--gpus", "0,1", "--launcher", "ray"), "--gpus is for this machine"),
        (("--launcher", "slurm", "--slurm", "cluster=local", "--slurm", "partitoin=gpu"), "partitoin"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_options_of_another_launcher_are_refused_and_not_passed_by(shell, flags, words, more):
    """Without it the grid would run where it was typed, as on the login node of a cluster."""
    code, output = shell.run("--methods", "kd", *flags, *more)
    assert code == 2 and words in output.splitlines()[0], output
    assert not shell.store.exists()


@pytest.mark.parametrize(
    ("launch", "is_here"),
    [(Launch(), True), (Launch("ray"), True), (Launch("ray", ray_address="auto"), False), (Launch("slurm"), False)],
)
def test_this_machine_computes_where_no_other_is_named(launch, is_here, tmp_path):
    """Then a run that is long without a GPU is told before it starts; else a GPU that is not seen may compute."""
    assert launch.is_here is is_here
    for cpu in (True, False):
        session = Session(RunOptions(store=tmp_path, cpu=cpu))
        launch.tell(session)
        assert session.harness.elsewhere is not (is_here or cpu or torch.cuda.is_available())


def test_with_two_jobs_lanes_of_one_pass_go_in_two(shell):
    code, output = shell.run("--methods", "dkd,dist,lskd,rkd,cc,rsd", "--jobs", "2")
    assert code == 0, output
    begun = [line.rpartition("seed 0: ")[2].split(", ") for line in output.splitlines() if line.startswith("start: ")]
    teacher, *students = begun
    assert teacher == ["scratch"]
    assert max(map(len, students)) == 4  # of eight, whether the other process comes in time for the rest or not
    assert len(Store(shell.store).records()[0]) == 9


def test_lanes_that_memory_keeps_apart_train_by_turns_and_a_dry_run_says_so(shell):
    """With a bound that the largest lane takes nearly by itself."""
    command = ("--methods", "fofa,dkd", "--memory", "0.11")
    code, output = shell.run("--dry-run", *command)
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if "not all side by side" in line and "vit_xs" in line]
    assert "in 2 passes over the data: resnet_m @ timm:folder/tiny, demo" in line
    code, output = shell.run(*command)
    assert code == 0, output
    begun = [line.rpartition("seed 0: ")[2].split(", ") for line in output.splitlines() if line.startswith("start: ")]
    assert begun[1:] == [["scratch", "kd", "dkd"], ["fofa"]]
    assert line.endswith("demo: scratch > vit_xs, kd > vit_xs, dkd > vit_xs; fofa > vit_xs")


def test_a_group_takes_a_teacher_once_what_its_lanes_keep_and_one_step():
    loads = [Load(peak=Peak(total=100, shared=30, kept=20)), Load(peak=Peak(total=90, shared=30, kept=10)), Load()]
    assert group_peak(loads) == 30 + 30 + 50
    assert Room(3, memory=110).holds(loads) and not Room(3, memory=109).holds(loads)
    assert Room(3, memory=10).holds(loads[:1])  # alone it is tried all the same


def test_processes_on_one_gpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80_000_000_000))
    assert share_machine(Options(), processes=4, gpus=2).memory == pytest.approx(0.7 * 80 / 2)
    assert share_machine(Options(memory=5.0), processes=4, gpus=2).memory == 5.0
    assert share_machine(Options(), processes=2, gpus=2).memory is None


def test_a_launch_of_several_processes_takes_no_jobs(tiny, tmp_path):
    session = Session(run_options("kd", pairs="resnet_m>vit_xs@fashion_demo", store=tmp_path, cpu=True))
    session.accelerator = SimpleNamespace(num_processes=2)
    assert session.processes(1) == 1
    with pytest.raises(UsageError, match="--jobs: accelerate launch has started"):
        session.processes(2)
