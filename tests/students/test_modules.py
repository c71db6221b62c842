"""What a run keeps besides its student: the modules trained beside it, and the accuracies of further networks."""

import numpy as np
import pytest
import torch

import cakdbench
from cakdbench.data.datasets import load_dataset
from cakdbench.data.stream import EvalStream
from cakdbench.methods.fbt import FBT
from cakdbench.records import Result
from cakdbench.store import Store
from cakdbench.students.student import load_student
from cakdbench.students.weights import read_weights
from cakdbench.train.evaluate import evaluate
from cakdbench.utils.device import make_accelerator
from tests.cli_lab import SHORT, Shell
from tests.methods.method_lab import batch_for, make, student, teacher


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Shell:
    shell = Shell(tiny, tmp_path_factory.mktemp("kept"))
    settings = (*SHORT, "recipe.epochs=1", "teacher.epochs=1", "recipe.ema_decay=0.5")
    code, text = shell.run("--methods", "fbt", "--keep", "modules,ema", settings=settings)
    assert code == 0, text
    return shell


def test_what_a_method_trains_beside_its_student_is_kept(trained):
    store = Store(trained.store)
    run = store.find("fbt-")
    state, facts = read_weights(run.modules)
    trainable = [value for name, value in state.items() if name.startswith(("l2g.", "projector.", "log_scale"))]
    assert not any(name.startswith("student.") for name in state) and run.ema.is_file()
    assert sum(value.numel() for value in trainable) == run.record().extra_parameters
    assert facts.class_names == tuple("0123456789")
    assert not store.find("kd-").modules.exists()  # which trains nothing beside the student


def test_the_assistant_that_was_kept_has_the_accuracy_of_the_record(trained):
    """Put together again of the student, the modules and the teacher's run."""
    store = Store(trained.store)
    run, dataset = store.find("fbt-"), load_dataset("timm:folder/tiny", trained.data)
    record, pupil, front = run.record(), load_student(run), load_student(store.find("scratch-resnet_m"))
    method = FBT(pupil.model, front.model, FBT.Config())
    method.load_state_dict(dict(read_weights(run.modules)[0]), strict=False)
    accelerator = make_accelerator("fp32", cpu=True, threads=1)
    stream = EvalStream(dataset.test, dataset, pupil.recipe)
    top1 = evaluate(method.evaluated()["assistant"], stream, accelerator).top1
    assert record.result.networks == {"assistant": pytest.approx(top1)}
    assert store.find("kd-").record().result.networks is None
    runs = cakdbench.load_results(trained.store, data_dir=trained.data).set_index("method")
    assert runs.loc["fbt", "top1_assistant"] == top1 and np.isnan(runs.loc["kd", "top1_assistant"])
    assert runs.loc["fbt", "teacher_top5"] >= runs.loc["fbt", "teacher_top1"]


@pytest.mark.parametrize("pair", [("vit", "cnn"), ("cnn", "vit"), ("mixer", "swin")])
def test_the_assistant_is_the_network_that_training_fuses(pair):
    method = make(FBT, teacher(pair[0]), student(pair[1])).eval()
    batch = batch_for(method.teacher)
    with torch.no_grad():
        front = method.student(batch.images, stages=True) if method.student_in_front else batch.teacher
        wanted = method.fuse(front.stages[2]).logits
        assert torch.equal(method.evaluated()["assistant"](batch.images).logits, wanted)


def test_without_a_fused_network_there_is_none_to_evaluate():
    method = make(FBT, teacher("vit"), student("cnn"), tf_weight=0.0, fs_weight=0.0)
    assert method.evaluated() == {}


def test_a_record_says_nothing_of_networks_that_there_are_not():
    numbers = {"top1": 50.0, "top5": 90.0, "optimistic_top1": 50.0, "optimistic_epoch": 0}
    assert (
        "networks" not in Result(**numbers).model_dump_json()
        and '"ema_top1":null' in Result(**numbers).model_dump_json()
    )
    told = Result(**numbers, networks={"assistant": 60.0})
    assert Result.model_validate_json(told.model_dump_json()) == told


def test_what_cannot_be_kept_is_named(shell):
    code, text = shell.run("--keep", "optimizer", "--methods", "kd")
    assert code == 2 and "choose from modules, ema" in text
