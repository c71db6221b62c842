"""A real Ray cluster of two nodes on this machine: what dies costs its minutes, what a node lacks is refused."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cakdbench.engine.launch import dispatch
from cakdbench.engine.launch import ray as ray_launcher
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.ray import RayCrew, _places, _places_here, as_task
from cakdbench.engine.options import RunOptions, to_json
from cakdbench.store import Store, checkpoint_files
from cakdbench.train import runtime
from cakdbench.train.runtime import Options
from tests.cli_lab import SHORT, Child, Program, Shell, cakdbench_command, descendants
from tests.engine.chain_lab import RUNS, files, grid, kill, two_teachers, wait_for_training
from tests.engine.test_kill import Ordeal, results

METHODS = ("--methods", "rkd", "--seeds", "0,1")
EPOCHS = ("recipe.epochs=5", "teacher.epochs=2")


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and two nodes of one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def command(shell: Shell, *more: str) -> list[str]:
    return shell.command(*METHODS, "--checkpoint-seconds", "0.2", *more, settings=(*SHORT, *EPOCHS))


def weights(store: Path) -> dict[str, tuple]:
    records, damage = Store(store).records()
    assert not damage
    return {record.key: (record.weights_sha256, record.predictions_sha256) for record in records}


def steps(store: Path) -> int:
    """Count the checkpoints by their steps, and finished runs as very many."""
    runs = list(Store(store).runs())
    return sum(
        10**9 * run.is_done + sum(int(path.name[5:14]) for path in checkpoint_files(run.checkpoints)) for run in runs
    )


def wait_for_a_step(store: Path, patience: float = 120) -> None:
    before, end = steps(store), time.monotonic() + patience
    while steps(store) <= before:
        assert time.monotonic() < end, "no step forward"
        time.sleep(0.05)


def workers() -> list[psutil.Process]:
    """The tasks of this test's own cluster: another may be at work on the machine."""
    return [process for process, words in descendants(os.getpid()) if "ray::_labour" in words]


@pytest.mark.slow
def test_a_killed_worker_and_two_lost_nodes_cost_no_run_and_change_no_weights(cluster, tiny, tmp_path):
    alone, shell = Shell(tiny, tmp_path / "alone"), Shell(tiny, tmp_path / "ray")
    code, output = alone(*command(alone))
    assert code == 0, output
    program = Program(*command(shell, "--launcher", "ray", "--ray-address", cluster.address, "--jobs", "2"))
    wait_for_a_step(shell.store)
    os.kill(workers()[0].pid, signal.SIGKILL)
    for _ in range(2):
        wait_for_a_step(shell.store)
        cluster.remove_node(list(cluster.worker_nodes)[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
    code, output = program.finish()
    assert code == 0, output
    assert "a worker was lost" in output
    assert weights(shell.store) == weights(alone.store) and len(weights(alone.store)) == 7


@pytest.mark.slow
def test_a_chain_and_two_teachers_end_in_the_files_of_one_process_whatever_worker_is_killed(cluster, tiny, tmp_path):
    teachers, settings = two_teachers(tmp_path), (*SHORT, "recipe.epochs=8")
    alone, shell = Shell(tiny, tmp_path / "alone"), Shell(tiny, tmp_path / "ray")
    code, output = alone(*grid(alone, teachers, settings=settings))
    assert code == 0, output
    ray = "--launcher", "ray", "--ray-address", cluster.address, "--jobs", "2"
    program, ordeal = Program(*grid(shell, teachers, *ray, settings=settings)), Ordeal()
    for student in ("mixer_xs", "mobilenet_s"):
        wait_for_training(shell.store, student)
        kill(workers())
        ordeal.look(shell.store)
    code, output = program.finish()
    assert code == 0, output
    ordeal.look(shell.store)
    assert output.count("a worker was lost") >= 2 and (ordeal.lost, ordeal.repeated) == ([], [])
    assert results(shell.store) == results(alone.store) and len(ordeal.finished) == RUNS
    assert files(shell.store) == files(alone.store)


def blind(words: list[str], place: str) -> None:
    """The command on a store by a path that means nothing to other processes."""
    folder = os.open(place, os.O_RDONLY)
    words[words.index("--store") + 1] = f"/proc/self/fd/{folder}/runs"
    cakdbench_command(None, *words)


def test_a_node_that_does_not_see_the_store_is_refused_before_anything_starts(cluster, tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    code, output = Child(
        blind, command(shell, "--launcher", "ray", "--ray-address", cluster.address), str(tmp_path)
    ).finish()
    assert code == 2, output
    assert "does not see the store /proc/self/fd/" in output and "--store" in output
    assert not list(shell.store.glob("*/identity.json"))


def beside_a_ghost(words: list[str]) -> None:
    """The command, which hears at first of a node more: one that is lost before it can answer."""
    nodes, told = ray.nodes, []

    def with_a_ghost():
        found = nodes()
        ghost = {
            **found[-1],
            "NodeID": "ab" * (len(found[-1]["NodeID"]) // 2),
            "Alive": True,
            "Resources": {"CPU": 1.0},
        }
        told.append(ghost)
        return [*found, ghost] if len(told) == 1 else found

    ray.nodes = with_a_ghost
    cakdbench_command(None, *words)


@pytest.mark.slow
def test_a_node_that_is_lost_while_it_is_asked_is_left_out(cluster, tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    words = shell.command("--methods", "kd", "--launcher", "ray", "--ray-address", cluster.address)
    code, output = Child(beside_a_ghost, words).finish()
    assert code == 0, output
    assert len(weights(shell.store)) == 3


@pytest.mark.slow
def test_ctrl_c_lets_the_tasks_save(cluster, tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    ray = ("--launcher", "ray", "--ray-address", cluster.address)
    program = Program(*command(shell, *ray, "--checkpoint-seconds", "999"))
    while not [log for log in shell.store.glob("*-vit_xs-*/log.txt") if "epoch 1/" in log.read_text()]:
        time.sleep(0.1)
    os.kill(program.process.pid, signal.SIGINT)
    code, output = program.finish()
    assert code == 130 and "the same command goes on from here" in output
    ends = [log.read_text().splitlines()[-1] for log in shell.store.glob("*-vit_xs-*/log.txt")]
    assert any("interrupted; saved" in line for line in ends)
    assert "running" not in {run.state() for run in Store(shell.store).runs()}


@pytest.mark.slow
def test_a_process_on_a_gpu_ends_with_its_group_and_one_on_cpus_stays_for_the_next(cluster):
    """The first would keep its GPU, whichever Ray gives the next group; the second is spared its imports."""
    node = cluster.add_node(num_cpus=1, num_gpus=1)  # by its word; there may be none
    ray.init(cluster.address, log_to_driver=False)
    try:
        here = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        for gpus, processes in ((1, 2), (0, 1)):
            task = as_task(lambda: os.getpid(), {"num_cpus": 1, "num_gpus": gpus}).options(scheduling_strategy=here)
            assert len({ray.get(task.remote()) for _ in range(2)}) == processes
    finally:
        ray.shutdown()
        cluster.remove_node(node)


@pytest.mark.slow
def test_a_task_knows_how_many_share_its_node(cluster):
    """The node's cores render for all of them."""
    ray.init(cluster.address, log_to_driver=False)
    try:
        alone = as_task(lambda: _places_here({"num_cpus": 1, "num_gpus": 0}), {"num_cpus": 1, "num_gpus": 0})
        assert ray.get(alone.remote()) == 1  # with the other node two
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("has", "cpus", "share", "places"),
    [
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.2, 5),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.1, 10),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.4, 4),
        ({"CPU": 3.0, "GPU": 8.0}, 1, 1.0, 3),
        ({"CPU": 7.0}, 2, 0, 3),
        ({"CPU": 7.0}, 1, 1.0, 0),
    ],
)
def test_the_tasks_that_a_node_can_run_are_counted(has, cpus, share, places):
    needs = {"num_cpus": cpus, "num_gpus": share}
    assert _places({"Alive": True, "Resources": has}, needs) == places
    assert _places({"Alive": False, "Resources": has}, needs) == 0


@pytest.mark.parametrize(("jobs", "processes"), [(1, 1), (None, 16), (40, 16)])
def test_the_tasks_share_the_work_by_how_many_there_can_be(monkeypatch, jobs, processes):
    shares = []
    monkeypatch.setattr(RayCrew, "places", lambda self: 16)
    monkeypatch.setattr("cakdbench.engine.launch.ray.as_task", lambda *_: Noted(shares))
    RayCrew("", {"num_cpus": 1, "num_gpus": 0}, jobs).start(1)
    assert shares == [processes]


class Noted:
    """A task that notes among how many it is sent."""

    def __init__(self, shares: list[int]):
        self.shares = shares

    def options(self, **_) -> "Noted":
        return self

    def remote(self, text: str, processes: int, number: int, needs: dict[str, float]) -> None:
        self.shares.append(processes)


@pytest.mark.parametrize(("told", "workers"), [(None, 3), (0, 0), (2, 2)])
def test_a_task_renders_with_its_part_of_the_node_unless_told_otherwise(monkeypatch, tmp_path, told, workers):
    seen = []
    monkeypatch.setattr(ray_launcher, "_places_here", lambda needs: 8)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 32)
    monkeypatch.setattr(dispatch, "work_through", lambda assignment, stop: seen.append(assignment.options.computing))
    text = to_json(Assignment(RunOptions(computing=Options(workers=told))))
    assert ray_launcher._labour(text, 10, 0, {"num_cpus": 1, "num_gpus": 1}) is None
    assert [options.workers for options in seen] == [workers]


def test_an_address_without_a_cluster_is_refused(tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    code, output = Program(*command(shell, "--launcher", "ray", "--ray-address", "127.0.0.1:1")).finish()
    assert code == 2 and "no Ray cluster at 127.0.0.1:1" in output and "ray start --head" in output
