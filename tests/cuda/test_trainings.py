"""Trainings on a device: lanes, resume, precision, memory layout, compilation, workers, memory, energy."""

import pytest
import torch

from cakdbench.checks.lab import short_recipe
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.engine.energy import energy_counter
from cakdbench.method import Batch, Method, Step
from cakdbench.registry import method_ids
from cakdbench.train.checkpoint import load_checkpoint, save_checkpoint
from cakdbench.train.lane import FUSED
from cakdbench.train.trainer import Interrupted

from .lab import OnDevice, farthest, run_grid

ALL = method_ids()
NEAR = 1e-4
"""How far weights may be apart after eight steps of SGD where a kernel is not deterministic."""


class TooLarge(Method):
    """Asks for more memory than there is in its second step."""

    id, title, paper, url = "too_large", "", "", ""

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        if batch.step == 1:
            torch.empty(2**46, dtype=torch.uint8, device=logits.device)
        return Step(logits, {"label": batch.label_loss(logits)})


@pytest.fixture(scope="module")
def together(device) -> OnDevice:
    return OnDevice(ALL, device).run()


def test_all_methods_train_as_lanes_of_one_pass(together):
    assert together.failed == {} and len(together.lanes) == len(ALL)


@pytest.mark.parametrize("id", ALL)
def test_a_lane_ends_in_the_same_weights_alone_and_beside_others(together, id, device):
    alone = OnDevice([id], device).run()
    assert farthest(alone.weights(id), together.weights(id)) < NEAR


def test_a_lane_that_was_stopped_goes_on_to_the_same_weights(together, device, tmp_path):
    stopped = OnDevice(["kd", "fbt"], device, stop_at=3)
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = OnDevice(["kd", "fbt"], device)
    for lane in resumed.lanes:
        save_checkpoint(tmp_path / lane.label, stopped.lanes[0].step, stopped.saved[lane.label], lane.label)
        state, damage = load_checkpoint(tmp_path / lane.label, lane.label)
        assert 0 < state["step"] < 8 and not damage
        lane.load(state)
    resumed.run()
    for lane in resumed.lanes:
        assert lane.step == 8
        assert farthest(lane.method.state_dict(), together.weights(lane.label)) < NEAR


def test_a_lane_without_memory_fails_with_its_reason_and_the_others_go_on(together, device):
    group = OnDevice(["scratch", TooLarge, "kd"], device).run()
    assert list(group.failed) == ["too_large"] and "memory" in group.failed["too_large"]
    assert farthest(group.weights("kd"), together.weights("kd")) < NEAR


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_optimizer_steps_as_the_plain_one(device, name):
    recipe = short_recipe(**{"optimizer.name": name, "optimizer.lr": 1e-3})
    fused, plain = (OnDevice(["scratch"], device, recipe=recipe) for _ in range(2))
    for group in plain.lanes[0].optimizer.param_groups:
        group["fused"] = False
    assert all(bool(g["fused"]) == (device.type == "cuda") for g in fused.lanes[0].optimizer.param_groups)
    fused.run()
    plain.run()
    assert farthest(fused.weights("scratch"), plain.weights("scratch")) < NEAR


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_grid_trains_its_teacher_and_its_students(device, tiny, tmp_path, precision):
    runs = run_grid("ofa,fbt", device, tiny, tmp_path / "runs", precision=precision, workers=2)
    assert list(runs.index) == ["fbt", "kd", "ofa", "scratch"]
    assert (runs["images_per_second"] > 0).all() and (runs["precision"] == precision).all()
    assert (runs["peak_memory_mb"] > 0).all() or device.type == "cpu"


def test_channels_last_trains_to_about_the_same_accuracy(device, tiny, tmp_path):
    plain, last = (
        run_grid("kd", device, tiny, tmp_path / str(flag), channels_last=flag, precision="bf16")
        for flag in (False, True)
    )
    assert last["channels_last"].all()
    assert (plain["top1"] - last["top1"]).abs().max() <= 10


@pytest.mark.parametrize("workers", [0, 3])
def test_images_reach_the_device_as_they_are_rendered(device, workers):
    group = OnDevice(["scratch"], device, workers=workers)
    plain = SampleStream(group.dataset, group.recipe, 0)
    trainer = group.make_trainer()
    for rendered, expected in zip(group.stream.epoch(1), plain.epoch(1), strict=True):
        for mine, theirs in zip(rendered, expected, strict=True):
            batch, theirs = trainer._batch(mine), plain.finish(theirs, torch.device("cpu"))
            assert batch.images.device.type == device.type
            assert torch.equal(batch.images.cpu(), theirs.images) and torch.equal(batch.index.cpu(), theirs.index)
    sent = [images for images, *_ in trainer.evaluation.on(device)]
    rendered = [images for images, *_ in EvalStream(group.dataset.test, group.dataset, group.recipe)]
    assert {images.device.type for images in sent} == {device.type}
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(sent, rendered, strict=True))


def test_peak_memory_grows_with_the_batch(device):
    peaks = []
    for batch in (10, 40):
        group = OnDevice(["scratch"], device, recipe=short_recipe(global_batch=batch, local_batch=batch))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        group.run()
        peaks.append(torch.cuda.max_memory_allocated() if device.type == "cuda" else batch)
    assert peaks[0] < peaks[1]


def test_the_energy_counter_goes_up(device):
    read = energy_counter(device)
    before = read()
    if device.type == "cpu":
        assert before is None
        return
    assert before is not None, "install the extra [energy], or the driver does not report energy"
    x = torch.randn(4096, 4096, device=device)
    for _ in range(200):
        x = torch.nn.functional.normalize(x @ x)
    torch.cuda.synchronize()
    assert read() > before
