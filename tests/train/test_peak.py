"""What a lane keeps between its steps, and its peak without what others keep."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cakdbench.train import peak
from cakdbench.train.peak import SETTLED, PeakMeter, held_beside, held_bytes
from tests.train.training import Training, short_recipe

DEVICE = SimpleNamespace(type="cuda")


@pytest.fixture(scope="module")
def trained() -> Training:
    return Training(["kd", "fitnet"], short_recipe(epochs=1, ema_decay=0.9)).run()


def test_a_lane_keeps_its_weights_their_average_and_what_the_optimizer_keeps(trained):
    lane = trained.lane("fitnet")
    student = [*lane.method.student.parameters(), *lane.method.student.buffers()]
    weights = sum(p.numel() for p in lane.method.parameters())
    buffers = sum(b.nbytes for b in lane.method.buffers())
    averages = sum(t.nbytes for t in student)
    momentum = sum(t.numel() for state in lane.optimizer.state.values() for t in state.values() if torch.is_tensor(t))
    assert momentum >= weights  # of every weight, at least one
    assert held_bytes(lane) == 4 * weights + buffers + averages + 4 * momentum
    before, parameter = held_bytes(lane), next(lane.method.parameters())
    parameter.grad = torch.zeros_like(parameter)  # as between the local batches of a step
    assert held_bytes(lane) == before + parameter.nbytes
    parameter.grad = None


def test_the_peak_of_a_lane_leaves_out_what_others_keep(trained, monkeypatch):
    """With the counter of a GPU, whose numbers tests/cuda compares with those of a lane that is alone."""
    kd, fitnet = trained.lane("kd"), trained.lane("fitnet")
    counter = [0]

    def take(total, lane):
        counter[0] = total

    monkeypatch.setattr(peak.torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(peak.torch.cuda, "max_memory_allocated", lambda: counter[0])
    meter = PeakMeter(DEVICE)
    for step, taken in ((0, 5), (1, 7), (2, 6), (SETTLED, 9)):
        meter.at_step(step)
        meter.of_lane(trained.lanes, kd, partial(take, 10**9 + taken))
    assert kd.peak == 10**9 + 7 - held_bytes(fitnet)  # the last of them is not measured
    assert held_beside(trained.lanes, kd) == held_bytes(fitnet) and fitnet.peak is None
    kd.peak = None


def test_a_cpu_counts_nothing(trained):
    assert [lane.peak for lane in trained.lanes] == [None, None]
