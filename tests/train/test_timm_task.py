"""Methods in a loop that knows timm's tasks and nothing of this project."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.task import LogitDistillationTask
from torch import distributed, nn

from cakdbench.checks.lab import CLASSES, SIZE
from cakdbench.models.catalog import create
from cakdbench.registry import method_ids
from cakdbench.train.timm_task import MethodTask
from cakdbench.utils.errors import UsageError
from tests.methods.method_lab import batch_for, student, teacher

NEEDS_LABELS = ("crd",)
LABELS = torch.arange(40) % CLASSES


def make(label, own="cnn", given="vit", **more):
    if label in NEEDS_LABELS:
        more["labels"] = LABELS
    torch.manual_seed(0)
    return MethodTask(label, student(own), teacher(given), verbose=False, **more).train()


def loop(task, steps=2, optimizer=None):
    """What timm's training loop does; the results of the last step."""
    optimizer = optimizer or create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.01, momentum=0.9)
    task.epoch_start(0)
    for _ in range(steps):
        batch = batch_for()
        more = [batch.index] if task.method.labels is not None else []
        result = task(batch.images, batch.target, *more)
        result["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        task.step_end()
    return result


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("id", [id for id in method_ids() if id != "pcagl"])
def test_every_method_without_an_adversary_trains(id):
    task = make(id)
    before, frozen = weights(task.get_eval_model()), weights(task.teacher)
    result = loop(task)
    named = [value for name, value in result.items() if name not in ("loss", "output")]
    assert result["loss"].item() == pytest.approx(sum(value.item() for value in named), rel=1e-5)
    assert result["output"].shape == (4, CLASSES)
    after = task.get_eval_model().state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before if name.endswith("weight"))
    assert all(torch.equal(value, frozen[name]) for name, value in task.teacher.state_dict().items())
    assert task.step == 2 and not task.teacher.training


TWO = """
import sys
import torch
from torch import distributed
from tests.train.test_timm_task import loop, make

distributed.init_process_group("gloo")
task = make("fofa")
loop(task.prepare_distributed(find_unused_parameters=True))
task.before_save()
if distributed.get_rank() == 0:
    torch.save(task.get_checkpoint_state(), sys.argv[1])
distributed.barrier()
distributed.destroy_process_group()
"""


def test_one_of_two_processes_saves_what_both_have(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", tmp_path / "two.py"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([*launch, tmp_path / "saved.pt"], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)["task_state"]
    assert saved["step"] == 2
    assert sorted(saved["method"]["_extra_state"]["feedback"]) == [0, 1]  # of the one local batch of each


def test_kd_is_timms_own_distillation():
    batch, task = batch_for(), make("kd[temperature=4.0]")
    nets = task.get_eval_model(), task.teacher.net
    task.teacher.expect_input(*((net.pretrained_cfg["mean"], net.pretrained_cfg["std"]) for net in nets))
    own = task(batch.images, batch.target)
    found = LogitDistillationTask(*nets, nn.CrossEntropyLoss(), temperature=4.0, verbose=False)(
        batch.images, batch.target
    )
    for ours, theirs in (("output", "output"), ("label", "task_loss"), ("kd", "kd_loss"), ("loss", "loss")):
        assert torch.allclose(own[ours], found[theirs], rtol=1e-4)


def test_distributed_it_takes_the_same_step(tmp_path):
    alone, wrapped = make("fbt"), make("fbt")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        loop(wrapped.prepare_distributed())
    finally:
        distributed.destroy_process_group()
    loop(alone)
    after = wrapped.get_eval_model().state_dict()
    assert all(torch.equal(value, after[name]) for name, value in alone.get_eval_model().state_dict().items())


def test_a_checkpoint_is_the_students_network_and_the_rest():
    task = make("crd")
    loop(task)
    saved = task.get_checkpoint_state()
    create("resnet_s", CLASSES, SIZE).load_state_dict(saved["state_dict"])
    assert {"memory.student", "memory.teacher"} <= set(saved["task_state"]["method"])
    twin = make("crd")
    twin.load_checkpoint_state(saved["state_dict"], saved["task_state"])
    assert twin.step == 2
    for name, value in task.method.state_dict().items():
        assert torch.equal(twin.method.state_dict()[name], value)


def test_a_resumed_task_takes_the_step_it_would_have_taken():
    task = make("fofa")  # whose next step needs what the last one left
    loop(task)
    saved = copy.deepcopy(task.get_checkpoint_state())
    twin = make("fofa")
    twin.load_checkpoint_state(saved["state_dict"], saved["task_state"])
    batch = batch_for()
    expected, found = (each(batch.images, batch.target)["loss"] for each in (task, twin))
    fresh = make("fofa")
    fresh.load_checkpoint_state(saved["state_dict"], None)
    assert torch.equal(expected, found)
    assert not torch.equal(expected, fresh(batch.images, batch.target)["loss"])


def test_batches_of_an_accumulated_step_are_told_apart():
    task, places = make("kd"), []
    task.method.register_forward_pre_hook(lambda module, given: places.append((given[0].step, given[0].micro_batch)))
    batch = batch_for()
    for _ in range(2):
        for _ in range(3):
            task(batch.images, batch.target)
        task.step_end()
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_an_ema_is_of_the_student_alone():
    task = make("fitnet")
    start = weights(task.get_eval_model())
    task.setup_ema(decay=0.5)
    loop(task)
    task.update_ema()
    averaged = task.get_checkpoint_state(ema=True)["state_dict_ema"]
    now = task.get_eval_model().state_dict()
    assert averaged.keys() == now.keys()
    for name, _ in task.get_eval_model().named_parameters():
        assert torch.allclose(averaged[name], (start[name] + now[name]) / 2, atol=1e-7)
    assert task.get_eval_model(ema=True)(batch_for().images).shape == (4, CLASSES)


def test_epochs_reach_the_method():
    batch, task = batch_for(), make("dkd[warmup=4]")
    losses = []
    for epoch in (0, 3):
        task.epoch_start(epoch)
        losses.append(task(batch.images, batch.target)["dkd"].item())
    assert losses[1] == pytest.approx(4 * losses[0], rel=1e-4)


def test_settings_are_those_of_the_dataset_and_of_the_call():
    assert make("ofa", dataset="imagenet1k").method.config.gamma == 1.5
    assert make("ofa", dataset="imagenet1k", settings={"gamma": 2.0}).method.config.gamma == 2.0


@pytest.mark.parametrize(
    ("label", "own", "given", "words"),
    [
        ("pcagl", "cnn", "vit", "adversary.*cakdbench run"),
        ("pcagl", "vit", "cnn", "refuses resnet_s>vit_xs: .*CNN student"),
        ("kdd", "cnn", "vit", "kdd.*kd"),
        ("kd[heat=2]", "cnn", "vit", "heat.*temperature"),
    ],
)
def test_what_cannot_be_done_is_said(label, own, given, words):
    with pytest.raises(UsageError, match=words):
        make(label, own, given)


def test_a_method_that_tells_samples_apart_asks_for_what_it_needs():
    with pytest.raises(UsageError, match="labels"):
        MethodTask("crd", student("cnn"), teacher("vit"), verbose=False)
    batch = batch_for()
    with pytest.raises(UsageError, match="index"):
        make("crd")(batch.images, batch.target)


def test_a_clipped_step_can_leave_the_head_out():
    task = make("fitnet")
    less = len(task.get_clip_parameters()) - len(task.get_clip_parameters(exclude_head=True))
    assert less == len(list(task.get_eval_model().get_classifier().parameters()))


def test_it_moves_with_its_teacher():
    task = make("fbt").to(torch.float64)
    batch = batch_for()
    result = task(batch.images.double(), batch.target)
    assert result["loss"].dtype == torch.float64 and next(task.teacher.parameters()).dtype == torch.float64
    assert task.dtype == torch.float64
