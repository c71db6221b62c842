"""Other systems, as far as they can be played here: what Linux has and they lack is taken away."""

import os
import pickle
import signal

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cakdbench.costs.counting import Meter
from cakdbench.data.datasets import load_dataset
from cakdbench.data.stream import LocalBatches
from cakdbench.engine.work import Bench, Work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.methods.ofd import margin_from_norm
from cakdbench.recipes import load_recipe
from cakdbench.registry import method_ids
from cakdbench.store import write_atomic
from cakdbench.utils.device import device_name, usable_cores
from tests.cli_lab import SHORT

ABSENT = {
    "macos": [(os, "sched_getaffinity")],
    "windows": [
        (os, "sched_getaffinity"), (os, "killpg"), (os, "uname"), (os, "fork"), (os, "getuid"),
        (signal, "SIGKILL"), (signal, "SIGUSR1"), (signal, "SIGHUP"),
    ],
}  # fmt: skip


@pytest.fixture(params=ABSENT)
def system(request, monkeypatch):
    for module, name in ABSENT[request.param]:
        monkeypatch.delattr(module, name, raising=False)
    if request.param == "windows":
        plain = os.open

        def no_folders(path, *arguments, **options):
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path, *arguments, **options)

        monkeypatch.setattr(os, "open", no_folders)
    return request.param


def test_files_are_written_and_cores_counted(system, tmp_path):
    write_atomic(tmp_path / "a" / "b.json", b"1")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"1"
    assert usable_cores() >= 1


def test_a_grid_runs_to_its_boards(system, shell):
    settings = (*SHORT, "recipe.epochs=1", "teacher.epochs=1")
    code, output = shell.run("--methods", "kd", settings=settings)
    assert code == 0, output
    assert all(set(path.name) & set('<>:"|?*') == set() for path in shell.work.rglob("*"))


def test_what_data_workers_are_given_can_be_sent_to_a_new_process():
    data, recipe = load_dataset("fashion_demo"), load_recipe("demo")
    copy = pickle.loads(pickle.dumps(LocalBatches(data, recipe, 0)))
    assert len(copy.split) == len(data.train)


def test_apples_gpu_is_called_by_its_name():
    assert device_name(torch.device("mps")).startswith("MPS")


class NoDouble(TorchDispatchMode):
    """Refuses float64 on any device but the CPU, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.device.type != "cpu":
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


@pytest.mark.parametrize("id", method_ids())
def test_no_loss_needs_float64_on_its_device(id):
    pairs = ["resnet_m>vit_xs@fashion_demo", "swin_m>mobilenet_s@fashion_demo"]
    cells = make_plan([id], resolve_pairs(",".join(pairs)), [0], Settings()).cells
    cell = next(cell for cell in cells if cell.method.id == id)
    bench = Bench(Work(cell, 10, 64), torch.device("meta"), 8)
    with Meter(), NoDouble():
        if bench.is_taught:
            bench.teach()
        bench.losses()


def test_ofds_margins_need_no_float64_on_their_device():
    with FakeTensorMode(), NoDouble():
        norm = torch.nn.BatchNorm2d(4, device="cuda")
        assert margin_from_norm(norm).device.type == "cuda"
