"""Measured speed: what counts as which part of a step, what follows from the numbers, and the command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cakdbench.data.datasets import dataset_facts
from cakdbench.data.stream import LocalBatches
from cakdbench.data.synthetic import synthetic_dataset
from cakdbench.data.views import MicroBatch
from cakdbench.engine.estimate import model_speeds
from cakdbench.engine.options import run_options
from cakdbench.engine.speed.bench import SpeedBench, measure_speeds
from cakdbench.engine.speed.facts import GroupSpeed, LaneSpeed
from cakdbench.engine.speed.phases import Clock, watching
from cakdbench.engine.speed.saved import save_speed, saved_speeds
from cakdbench.engine.speed.timing import Limit, Ticks
from cakdbench.engine.work import list_work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.train import runtime as runtimes
from cakdbench.train.events import GroupView
from cakdbench.train.runtime import Options, Runtime
from cakdbench.utils.device import device_name, make_accelerator
from tests.train.training import same

CPU = torch.device("cpu")
PAIR = "resnet_m>mobilenet_s@cifar100"
SMALL = ["recipe.image_size=64", "recipe.global_batch=8", "recipe.local_batch=4"]


class FakeTime:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bench(methods="kd", *settings: str, pair: str = PAIR) -> SpeedBench:
    plan = make_plan(methods.split(","), resolve_pairs(pair), (0,), Settings.parse([*SMALL, *settings]))
    cells = [cell for cell in plan.cells if cell.label in methods.split(",")]
    return SpeedBench(cells, Runtime(make_accelerator(cpu=True)), Limit(8, 0.1, least=2))


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters())


def test_time_inside_of_an_inner_part_counts_there_alone():
    time = FakeTime()
    clock = Clock(CPU, time)
    with clock.phase("step"):
        time.now += 1
        with clock.phase("student"):
            time.now += 10
            with clock.phase("student"):
                time.now += 100
        time.now += 1000
    assert clock.seconds == {"step": 1001, "student": 110}


@pytest.mark.parametrize("method", ["fofa", "ofa", "kd"])
def test_a_watched_step_computes_the_same_and_leaves_nothing_behind(method):
    plain, watched = bench(method), bench(method)
    plain._engine_step(plain.lanes[0], plain._batch(plain.lanes))
    clock, [lane], batch = Clock(CPU), watched.lanes, watched._batch(watched.lanes)
    before = {name: set(vars(owner)) for name, owner in (("student", lane.method.student), ("lane", lane))}
    with watching(clock, lane, compiled=False):
        watched._engine_step(lane, batch)
    assert same(parameters(plain.lanes[0].method), parameters(lane.method))
    assert {"engine", "student", "method", "backward", "optimizer"} <= clock.seconds.keys()
    assert {"student": set(vars(lane.method.student)), "lane": set(vars(lane))} == before
    assert ("teacher" in clock.seconds) == ("model" in lane.method.needs)


@pytest.mark.parametrize("settings", [(), ("recipe.clip_grad=0.1", "recipe.ema_decay=0.5")])
def test_the_ceiling_is_of_the_engines_own_step(settings):
    engine, bare = bench("kd", *settings), bench("kd", *settings)
    engine._engine_step(engine.lanes[0], engine._batch(engine.lanes))
    bare.bare_step(bare.lanes)
    (one, other) = (group.lanes[0] for group in (engine, bare))
    assert same(parameters(one.method), parameters(other.method))
    if settings:
        assert same(parameters(one.ema), parameters(other.ema))


def test_the_trainers_speed_is_the_median_between_its_ticks():
    time = FakeTime()
    ticks = Ticks(Limit(steps=40, seconds=100), time)
    view = GroupView("", "", 0, 1, 100, [])
    for view.step, time.now in ((1, 5.0), (11, 9.0), (21, 29.0), (31, 39.0), (41, 50.0)):
        assert not ticks.enough()
        ticks.tick(view)
    assert ticks.enough()
    assert ticks.seconds_per_step() == pytest.approx(1.1)  # of 2, 1 and 1.1; the first interval, 0.4, is left out


def group(**numbers) -> GroupSpeed:
    lanes = [LaneSpeed("kd", phases={"student": 1.0, "backward": 3.0}, alone=20.0, macs=4.0)]
    conditions = dict(recipe="demo", precision="fp32", image_size=64, accumulation=1, data="synthetic", versions={})
    return GroupSpeed(
        pair=PAIR,
        local_batch=100,
        device="GPU",
        threads=1,
        workers=8,
        compiled=False,
        channels_last=False,
        lanes=lanes,
        **conditions,
        **numbers,
    )


@pytest.mark.parametrize(
    ("numbers", "binds"),
    [
        ({"rendering": 15.0, "ceiling": 20.0}, "rendering"),
        ({"rendering": 25.0, "ceiling": 20.0, "issue": 4.9}, "the host, which issues kernels"),
        ({"rendering": 25.0, "ceiling": 20.0, "issue": 4.0}, "backward"),
        ({"rendering": 25.0, "ceiling": 20.0, "teacher": 3.5}, "teacher"),
    ],
)
def test_what_binds_is_what_the_step_waits_for(numbers, binds):
    assert group(**numbers).binds == binds


def test_ratio_savings_and_rate_follow_from_the_numbers():
    speed = group(ceiling=20.0, trainer=18.0, teacher_macs=1.0, matrix_rate=900.0)
    assert (speed.ratio, speed.together_saves, speed.achieved) == (pytest.approx(0.9), 1.0, pytest.approx(0.1))
    speed.lanes.append(LaneSpeed("dkd", alone=10.0))
    assert speed.together_saves == pytest.approx(3) and speed.achieved is None


@pytest.mark.parametrize(("name", "size"), [("cifar100", (32, 32)), ("imagenet1k", (500, 375))])
def test_noise_has_the_form_of_the_dataset(name, size):
    facts = dataset_facts(name)
    data, again = synthetic_dataset(name, facts), synthetic_dataset(name, facts)
    assert (len(data.train), len(data.test), data.num_classes) == (facts.n_train, facts.n_test, facts.num_classes)
    assert set(data.train.labels) == set(range(facts.num_classes))
    image = data.train.image(facts.n_train - 1)
    assert image.size == size and image.mode == "RGB"
    assert np.array_equal(image, again.train.image(facts.n_train - 1))
    recipe = load_recipe("ofa_cifar_cnn").override({"local_batch": 4, "global_batch": 4})
    assert LocalBatches(data, recipe, 0)[MicroBatch(0, 0, 0)].pixels.shape == (4, 224, 224, 3)


def test_estimates_go_by_measured_speeds_of_an_equal_device(tmp_path):
    accelerator = make_accelerator(cpu=True)
    plan = make_plan(["kd"], resolve_pairs(PAIR), (0,), Settings.parse(SMALL))
    works = list_work(cell for cell in plan.cells if cell.label == "kd")
    measured = replace(group(teacher=5.0), device=device_name(CPU), finished="2026-01-02")
    save_speed(tmp_path, measured)
    save_speed(tmp_path, replace(measured, workers=2, teacher=7.0, finished="2026-01-01"))
    save_speed(tmp_path, replace(measured, device="another", teacher=9.0, finished="2026-01-03"))
    for name, text in {"damaged": "{", "empty": "{}", "list": "[]", "number": '{"pair": 1}'}.items():
        (tmp_path / "speed" / f"{name}.json").write_text(text)
    speeds, basis, _ = model_speeds(works, accelerator, 4, timed=saved_speeds(tmp_path))
    assert (speeds[works[0].key].student, speeds[works[0].key].teacher) == (0.04, 0.05)
    assert basis == "1 of 1 kinds of runs as `cakdbench speed` has measured them here"


def test_of_several_teachers_all_are_asked_and_counted():
    teachers = [bench(pair=f"{name}>mobilenet_s@cifar100") for name in ("resnet_m", "swin_m")]
    both = bench("kd,rkd", pair="resnet_m+swin_m>mobilenet_s@cifar100")
    for group in (*teachers, both):
        group.speed.lanes = [LaneSpeed(lane.label) for lane in group.lanes]
        group.count()
    assert both.speed.teacher_macs == sum(group.speed.teacher_macs for group in teachers) > 0
    said = both._teach(both.lanes)
    for one, each in zip(teachers, said.each, strict=True):
        torch.testing.assert_close(one.teacher(both.resident.images).logits, each.logits)
    both.bare_step(both.lanes)


CHAIN = "run:rkd:resnet_m>vit_xs@cifar100>mobilenet_s@cifar100"


def test_a_run_that_teaches_is_measured_as_its_model_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(SpeedBench, "measure", lambda self: self.speed)
    words = {"recipe": "demo", "store": tmp_path, "cpu": True}
    found = [
        (speed.pair, speed.teacher_macs)
        for speed in measure_speeds(run_options("kd", SMALL, pairs=f"{CHAIN},{CHAIN}", **words), Limit(8, 0.1, least=2))
    ]
    assert found == [("vit_xs>mobilenet_s@cifar100", 0.0)]


def test_what_was_measured_of_a_model_is_the_estimate_of_a_run_that_teaches(tmp_path):
    accelerator = make_accelerator(cpu=True)
    plan = make_plan(["kd"], resolve_pairs(CHAIN, "demo"), (0,), Settings.parse(SMALL), always=())
    measured = replace(group(teacher=5.0), device=device_name(CPU), finished="2026-01-02")
    save_speed(tmp_path, replace(measured, pair="vit_xs>mobilenet_s@cifar100"))
    link, last = list_work(plan.cells)
    speeds = model_speeds([link, last], accelerator, 4, timed=saved_speeds(tmp_path)).speeds
    assert (speeds[last.key].student, speeds[last.key].teacher) == (0.04, 0.05)
    assert speeds[link.key] != speeds[last.key]


RAISING = """
from cakdbench.methods.scratch import Scratch
from cakdbench.registry import register

@register("raising", title="Raising", paper="p", url="u", year=2026, kind="logits")
class Raising(Scratch):
    def distill_step(self, batch):
        raise RuntimeError("the shapes do not fit")
"""


def test_the_command_measures_lanes_and_names_those_that_fail(shell):
    (shell.work / "raising.py").write_text(RAISING)
    code, output = shell(
        "speed", "--cpu", "--methods", "kd,raising,pcagl", "--pairs", "resnet_m>vit_xs@cifar100", "--steps", "8",
        "--seconds", "0.1", "--store", str(shell.store), "--out", "measured", "--method-file", "raising.py",
        "--set", *SMALL,
    )  # fmt: skip
    assert code == 1
    assert "refused: pcagl on resnet_m>vit_xs@cifar100" in output
    assert "- raising failed: " in output and "the shapes do not fit" in output
    [numbers] = json.loads((shell.work / "measured" / "speed.json").read_text())
    assert [lane["method"] for lane in numbers["lanes"]] == ["kd"] and numbers["data"] == "synthetic"
    assert numbers["trainer"] > 0 and numbers["ceiling"] > 0 and 0 < numbers["achieved"] < 1
    assert {"student", "method", "backward", "optimizer", "engine"} == numbers["lanes"][0]["phases"].keys()
    assert [group["pair"] for group in saved_speeds(shell.store)] == ["resnet_m>vit_xs@cifar100"]
    page, plot = ((shell.work / "measured" / name).read_text() for name in ("speed.md", "speed.svg"))
    assert ", 1 lane |" in page and "0x |" not in page, page  # one lane saves nothing by being together
    assert "| kd " in page and "images of noise in the dataset's form" in page
    assert "milliseconds of one local batch" in plot and "teacher, forward" in plot


@pytest.mark.parametrize(("cores", "local", "workers"), [(16, 1, 15), (64, 1, 16), (64, 8, 7), (2, 4, 1)])
def test_a_gpu_is_fed_by_its_share_of_the_cores_but_one(monkeypatch, cores, local, workers):
    monkeypatch.setattr(runtimes, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    gpu = SimpleNamespace(device=torch.device("cuda"), process_index=0, num_processes=local)
    assert Runtime(gpu).rendering["workers"] == workers
    assert Runtime(gpu, Options(workers=3)).rendering["workers"] == 3
    assert Runtime(make_accelerator(cpu=True)).rendering["workers"] == 0
