"""Memory of a device: what a lane takes beside others, lanes that find none together, how much was predicted."""

from pathlib import Path

import pytest
import torch

import cakdbench
from cakdbench.engine.memory import predict_peak
from cakdbench.engine.speed.bench import SpeedBench
from cakdbench.engine.speed.timing import Limit
from cakdbench.engine.work import list_work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.registry import load_file
from cakdbench.store import Store
from cakdbench.train.lane import Lane
from cakdbench.train.peak import PeakMeter
from cakdbench.train.runtime import Options, Runtime
from cakdbench.utils.device import make_accelerator
from tests.cli_lab import PAIR

from .lab import SHORT, OnDevice

METHODS = ["scratch", "kd", "crd", "ofa", "fofa"]
HUNGRY = Path(__file__).with_name("hungry.py")
LARGE = 2**28
"""Bytes that its methods keep; they take twice as many more in each step."""


class Forgetful(OnDevice):
    """Keeps no states, which would lie on the device too."""

    def save(self, lane: Lane) -> None:
        pass


def peaks(group: OnDevice) -> dict[str, int | None]:
    return {lane.label: lane.peak for lane in group.lanes}


def test_the_peak_of_a_lane_beside_others_is_the_one_it_has_alone(device):
    beside = peaks(Forgetful([*METHODS, *load_file(HUNGRY)], device).run())
    alone = {id: peaks(Forgetful([id], device).run())[id] for id in METHODS}
    if device.type == "cpu":
        assert set(beside.values()) == {None}  # a CPU does not count
        return
    assert beside["hungry"] >= 3 * LARGE
    assert beside == pytest.approx(alone | {id: beside[id] for id in ("hungry", "hungrier")}, rel=0.1, abs=2**21)
    assert beside["fofa"] > 1.5 * beside["scratch"]


@pytest.fixture
def little_memory(device):
    """Room for one hungry lane, and not for two."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        torch.cuda.set_per_process_memory_fraction((held + 3.6 * LARGE) / torch.cuda.mem_get_info()[1])
    yield
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_lane_that_finds_no_memory_is_trained_alone_after_the_others(device, little_memory, tiny, tmp_path):
    runs = cakdbench.run(
        methods="hungry,hungrier",
        method_files=[HUNGRY],
        pairs=PAIR,
        store=tmp_path / "runs",
        recipe="demo",
        settings=SHORT,
        data_dir=tiny,
        teacher_files=[tiny / "teachers.toml"],
        cpu=device.type == "cpu",
        jobs=1,
        progress=False,
    ).set_index("method")
    assert set(runs.index) >= {"hungry", "hungrier"}
    folders = {run.record().label: run for run in Store(tmp_path / "runs").runs() if run.is_done}
    said = [(folders[id].path / "log.txt").read_text() for id in ("hungry", "hungrier")]
    assert any("no memory beside the others" in text for text in said) == (device.type == "cuda")
    peaks = runs.loc[["hungry", "hungrier"], "peak_memory_mb"]
    assert peaks.between(760, 900).all() or device.type == "cpu"


def large_peak(cell, device) -> int | None:
    """Return the bytes at the peak of a cell's first steps, the teacher's pass among them."""
    bench = SpeedBench(
        [cell], Runtime(make_accelerator(cell.precision), Options(workers=0)), Limit(2, 1), synthetic=True
    )
    (lane,), meter = bench.lanes, PeakMeter(device)
    for step in range(3):
        meter.at_step(step)
        meter.of_lane(bench.lanes, lane, lambda lane: bench._engine_step(lane, bench._batch([lane])))
    return lane.peak


@pytest.mark.parametrize("id", ["scratch", "kd", "crd", "ofa", "fofa", "pcagl", "fbt"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_predicted_peak_is_near_the_measured_one(device, id, precision):
    """With networks of the papers. Workspaces of kernels are not predicted: without TF32 some take a gigabyte."""
    settings = Settings.parse(("recipe.global_batch=64", "recipe.local_batch=64"))
    plan = make_plan([id], resolve_pairs("swin_t>resnet18@cifar100"), (0,), settings, precision)
    cell = next(cell for cell in plan.cells if cell.label == id)
    predicted = predict_peak(list_work([cell])[0])
    assert predicted and predicted.total > 2**29
    if device.type == "cuda":
        measured = large_peak(cell, device)
        print(f"\npeak {id} {precision}: predicted {predicted.total / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
        assert 0.95 * predicted.total < measured < 1.6 * predicted.total
