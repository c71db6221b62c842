"""Predicted peaks: against sizes by hand, MemTracker, and the batch."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from cakdbench.engine.memory import LiveBytes, predict_peak, predict_peaks
from cakdbench.engine.work import list_work
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.models.staged import StagedModel

PAIR = "resnet_m>mobilenet_s@fashion_demo"
BATCH = 50


def works(methods="kd", precision="fp32", **numbers):
    plan = make_plan(methods.split(","), resolve_pairs(PAIR), (0,), Settings(recipe=numbers), precision)
    return {work.cell.label: work for work in list_work(plan.cells)}


def test_of_several_teachers_the_weights_of_all_are_there():
    pairs = f"{PAIR},swin_m>mobilenet_s@fashion_demo,resnet_m+swin_m>mobilenet_s@fashion_demo"
    plan = make_plan(["kd"], resolve_pairs(pairs), (0,), Settings(), always=())
    first, second, both = map(predict_peak, list_work(plan.cells))
    assert both.shared == first.shared + second.shared and both.kept == first.kept == second.kept
    assert both.total >= max(first.total, second.total) + min(first.shared, second.shared)


def test_a_linear_layer_is_counted_as_by_hand():
    with FakeTensorMode():
        layer, x, live = nn.Linear(100, 10, bias=False), torch.zeros(50, 100), LiveBytes()
        weights = live.add([layer.weight, x])
        assert weights == 4 * (100 * 10 + 50 * 100)
        with live:
            out = layer(x)
            assert live.now == weights + 4 * 50 * 10
            loss = out.relu_().sum()
            del out
            loss.backward()
            assert live.now == weights + 4 * (1 + 100 * 10)  # the loss and the gradient of the weights
        # at most, with the layer's output gone: the gradients of it and of the weights, the loss and its gradient
        assert live.peak == weights + 4 * (50 * 10 + 100 * 10 + 2)


def test_a_student_is_counted_as_by_torchs_tracker():
    work = works(**{"drop_path": 0.0})["scratch"]
    with FakeTensorMode():
        student = StagedModel("mobilenet_s", 10, work.cell.recipe.image_size)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        images, target = torch.zeros(BATCH, 3, 64, 64), torch.zeros(BATCH, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(student, optimizer, images, target)
        with tracker:
            for _ in range(2):
                nn.functional.cross_entropy(student(images).logits, target).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
        by_torch = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    local = replace(work, cell=replace(work.cell, recipe=work.cell.recipe.override({"optimizer.name": "momentum"})))
    assert work.cell.recipe.local_batch == BATCH
    assert predict_peak(local).total == pytest.approx(by_torch, rel=0.01)


def test_weights_optimizer_and_teacher_are_what_they_are():
    scratch, kd = (predict_peak(works(**{"optimizer.name": "adamw"})[name]) for name in ("scratch", "kd"))
    student, teacher = (StagedModel(name, 10, 64) for name in ("mobilenet_s", "resnet_m"))
    sizes = [sum(p.nbytes for p in (*net.parameters(), *net.buffers())) for net in (student, teacher)]
    moments = 2 * sum(p.nbytes for p in student.parameters())
    assert scratch.kept - sizes[0] - moments in range(0, 10_000)  # and a step number a tensor
    assert (scratch.shared, kd.shared, kd.kept) == (0, sizes[1], scratch.kept)
    assert kd.total > scratch.total + sizes[1]


def test_a_peak_grows_with_the_batch_and_shrinks_in_half_precision():
    batches = [{"global_batch": size, "local_batch": size} for size in (16, 32, 64)]
    small, middle, large = (predict_peak(works("fbt", **batch)["fbt"]).total for batch in batches)
    assert small < middle < large
    assert (large - middle) / (middle - small) == pytest.approx(2, rel=0.05)
    assert predict_peak(works("fbt", "bf16", **batches[-1])["fbt"]).total < 0.8 * large


def test_every_method_has_a_peak_and_time_bounds_them():
    from cakdbench.registry import methods_named

    kinds = works(",".join(methods_named("all")))
    peaks, left_out = predict_peaks(kinds.values())
    assert not left_out and len(peaks) == len(kinds)
    assert all(peak.total > peak.kept + peak.shared for _, peak in peaks)
    assert predict_peaks(kinds.values(), seconds=0) == ([], len(kinds))
