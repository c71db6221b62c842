"""How long a plan takes: counted, from records, or measured."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from cakdbench.costs.bench import CountingBench
from cakdbench.costs.method_costs import method_cost
from cakdbench.engine import estimate as estimates
from cakdbench.engine import work as works
from cakdbench.engine.estimate import Speed, add_up, estimate
from cakdbench.engine.work import count_macs, list_work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.registry import get_method
from cakdbench.store import Store
from cakdbench.utils.device import device_name

PAIR = "resnet_m>mobilenet_s@fashion_demo"


@pytest.fixture
def cpu() -> Accelerator:
    AcceleratorState._reset_state()
    torch.set_num_threads(1)
    return Accelerator(cpu=True)


def cells(methods="fitnet", seeds=(0,), pairs=PAIR):
    return make_plan(methods.split(","), resolve_pairs(pairs), seeds, Settings()).cells


def test_a_step_is_three_passes_of_the_student_and_one_of_the_teacher():
    bench = CountingBench(resolve_pairs(PAIR)[0])
    scratch, kd, fitnet = (count_macs(work) for work in list_work(cells()))
    assert scratch == (3 * bench.student_cost.macs, 0)
    assert kd == (scratch[0], bench.teacher_cost.macs)
    path = method_cost(bench, get_method("fitnet")).path_macs
    assert path > 0 and fitnet == (3 * (bench.student_cost.macs + path), bench.teacher_cost.macs)


def test_a_method_that_looks_into_its_tensors_is_counted_on_real_ones(monkeypatch):
    work = list_work(cells())[0]
    counted = count_macs(work)
    devices = []

    def count(work, device):
        devices.append(device.type)
        if device.type == "meta":
            raise NotImplementedError("a method that asks for values")
        return _count(work, device)

    _count = works._count
    monkeypatch.setattr(works, "_count", count)
    assert count_macs(work) == counted and devices == ["meta", "cpu"]


def test_a_method_whose_timed_step_raises_does_not_take_the_others_with_it(cpu, monkeypatch):
    def step_end(self):
        raise OSError("no space left")

    monkeypatch.setattr(get_method("scratch"), "step_end", step_end)
    monkeypatch.setattr(estimates, "_rates", {})
    found = estimate(cells(), cpu)
    assert found.seconds > 0 and "with a step of kd on mobilenet_s" in found.basis
    assert len(found.failed) == 1 and found.failed[0].startswith(f"scratch on {PAIR}: OSError: no space left")


def test_students_add_up_and_a_teacher_runs_once_for_those_who_share_it():
    works = list_work(cells(seeds=(0, 1)))
    speeds = {work.key: Speed(2.0, 0.0 if work.cell.label == "scratch" else 1.0, 2.0) for work in works}
    total = add_up(works, speeds, "made up")
    images = works[0].samples * works[0].cell.recipe.epochs
    assert total.seconds == pytest.approx(images * (6 * 2.0 + 2 * 1.0))
    assert (total.low, total.high) == pytest.approx((total.seconds / 2, total.seconds * 2))
    assert add_up(works, speeds, "made up", processes=2).seconds == pytest.approx(total.seconds / 2)


def test_counted_and_measured_agree_within_what_the_former_says_of_itself(cpu):
    plan = cells("cc,ofa")
    counted, measured = (estimate(plan, cpu, measured=flag) for flag in (False, True))
    assert counted.low < measured.seconds < counted.high
    assert "multiply-adds" in counted.basis and "scratch on mobilenet_s" in counted.basis
    assert "each of 4 kinds" in measured.basis


def test_the_rate_is_measured_once_a_process(cpu, monkeypatch):
    first = estimate(cells(), cpu)
    monkeypatch.setattr(estimates, "measure", lambda *_: pytest.fail("measured again"))
    assert estimate(cells(), cpu).seconds == first.seconds


@pytest.fixture
def record(shell):
    """The record of a real run."""
    code, output = shell.run("--methods", "kd")
    assert code == 0, output
    records, _ = Store(shell.store).records()
    return next(record for record in records if record.label == "kd")


def test_speeds_of_earlier_runs_on_an_equal_device_count(cpu, record):
    assert record.conditions.device == device_name(cpu.device)
    cell = cells("kd", pairs="resnet_m>vit_xs@fashion_demo")[1]
    cell = replace(cell, pair=replace(cell.pair, dataset=record.identity.dataset.name))
    work = replace(list_work(cells("kd"))[1], cell=cell)

    def seconds(**conditions):
        fast = record.model_copy(update={"conditions": record.conditions.model_copy(update=conditions)})
        speeds, basis, _ = estimates.model_speeds([work], cpu, 8, [fast])
        return speeds[work.key].student, basis

    recorded, basis = seconds(images_per_second=4.0)
    assert recorded == 0.25 and "1 of 1 kinds of runs as earlier ones" in basis
    for other in ({"device": "another"}, {"threads": 7}, {"processes": 2}):
        modelled, basis = seconds(images_per_second=4.0, **other)
        assert modelled != 0.25 and "earlier" not in basis
