"""Methods are built in one way: by the engine, for timm's loop, for one's own, for checks and counts."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from cakdbench.build import build_method, count_extra_parameters
from cakdbench.checks.lab import Direction, Lab
from cakdbench.cli import cards
from cakdbench.costs.bench import CountingBench
from cakdbench.costs.method_costs import method_cost
from cakdbench.data.datasets import load_dataset
from cakdbench.engine.group import Group
from cakdbench.engine.inits import Inits
from cakdbench.engine.task import Task
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.method import Method
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import load_recipe
from cakdbench.registry import get_method
from cakdbench.store import Store
from cakdbench.train.events import GroupView, LaneView
from cakdbench.train.lane import Lane
from cakdbench.train.runtime import Runtime
from cakdbench.train.timm_task import MethodTask
from cakdbench.train.trainer import Keeper, Trainer
from cakdbench.training import create_method, make_batch
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.errors import TeacherError, UsageError
from cakdbench.utils.rng import seeded
from tests.train.training import same, small_dataset

TEACHER, STUDENT, SIZE, CLASSES = "vit_tiny_patch16_224", "resnet10t", 64, 10
PAIR = f"timm:{TEACHER}>timm:{STUDENT}@fashion_demo"
METHODS = ("scratch", "kd", "fitnet", "crd", "ofa", "fbt:no_infonce", "fofa")


def plain_teacher() -> nn.Module:
    """Return a ViT as timm makes it, with weights of its own."""
    with seeded("plain teacher"):
        return timm.create_model(TEACHER, num_classes=CLASSES, img_size=SIZE)


def plain_student(weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    net = timm.create_model(STUDENT, num_classes=CLASSES)
    if weights:
        net.load_state_dict(weights)
    return net


def tensors(method: Method) -> dict[str, torch.Tensor]:
    return dict(method.named_parameters()) | dict(method.named_buffers())


class EngineStep:
    """The engine's lane of a method, and the first batch that the trainer would give it."""

    def __init__(self, label: str):
        plan = make_plan([label], resolve_pairs(PAIR, "demo"), [0], Settings(recipe={"schedule.warmup_epochs": 0}))
        cell = next(cell for cell in plan.cells if cell.label == label)
        teacher = StagedModel.wrap(plain_teacher()).eval().requires_grad_(False)
        self.group = Group(
            [Task(cell, None, None)],
            small_dataset(),
            teacher,
            None,
            Runtime(make_accelerator(cpu=True)),
            Inits(Store("runs")),
        )
        self.lane: Lane = self.group._build(label, cell)
        self.start = {name: value.clone() for name, value in tensors(self.lane.method).items()}
        trainer = Trainer(
            [self.lane],
            teacher,
            self.group.stream,
            self.group.evaluation,
            self.group.runtime,
            Keeper(),
            GroupView("", "", 0, 1, 1, [LaneView(label)]),
        )
        self.batch = trainer._batch(next(iter(self.group.stream.epoch(0)))[0])

    def losses(self) -> dict[str, float]:
        self.lane.start_epoch(0)
        self.lane.local_step(self.batch, 0)
        self.lane.flush_metrics()
        return self.lane.running.losses


@pytest.mark.parametrize("label", METHODS)
def test_a_method_in_a_loop_of_ones_own_takes_the_engines_step(label):
    engine = EngineStep(label)
    own = engine.group.dataset.train.labels
    net = plain_student(engine.lane.method.student.net.state_dict())
    method = create_method(
        label, net, plain_teacher(), image_size=SIZE, dataset="fashion_demo", labels=torch.from_numpy(own)
    )
    assert same(tensors(method), engine.start)
    method.epoch_start(0)
    batch = make_batch(
        method, engine.batch.images, engine.batch.target, engine.batch.index, criterion=engine.batch.criterion
    )
    with seeded(0, method.id, 0, 0):
        step = method(batch)
    assert {name: loss.item() for name, loss in step.losses.items()} == pytest.approx(engine.losses(), rel=1e-6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    step.total.backward()
    optimizer.step()
    assert any(not torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in method.teacher.parameters()) if method.teacher else True


def test_a_student_by_name_is_the_one_of_a_run():
    method = create_method("kd", f"timm:{STUDENT}", plain_teacher(), CLASSES, dataset="fashion_demo")
    assert same(tensors(method), EngineStep("kd").start)
    other = create_method("kd", f"timm:{STUDENT}", plain_teacher(), CLASSES, dataset="fashion_demo", seed=1)
    assert not same(method.state_dict(), other.state_dict())


@pytest.mark.parametrize("label", ["kd", "fitnet", "fbt:no_infonce", "ofa", "fofa"])
def test_all_who_build_a_method_give_it_the_same_modules(label):
    spec = PairSpec(resolve_pairs("vit_xs>resnet_s@fashion_demo")[0].pair, "demo")
    with seeded("any"):
        networks = [StagedModel(name, CLASSES, SIZE) for name in ("resnet_s", "vit_xs")]
    task = MethodTask(label, *networks, dataset="fashion_demo", verbose=False)
    shapes = {name: value.shape for name, value in tensors(task.method).items()}
    count, kind = task.method.extra_parameters(), get_method(label.partition(":")[0])
    config = task.method.config
    lab = Lab(kind, label.partition(":")[2] or None).make(Direction("msa", "cnn"))
    assert {name: value.shape for name, value in tensors(lab).items()} == shapes
    assert count_extra_parameters(kind, *networks, config) == count
    assert method_cost(CountingBench(spec), kind, label.partition(":")[2] or None).extra_parameters == count
    if ":" not in label:
        assert cards.extra_parameters(kind, spec) == count


def test_the_teacher_is_frozen_and_no_part_of_the_method():
    teacher = plain_teacher().train()
    method = create_method("kd", plain_student(), teacher, image_size=SIZE)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert method.teacher.net is teacher and method.training and method.student.training
    assert len(list(method.parameters())) == len(list(plain_student().parameters()))
    assert create_method("scratch", plain_student(), teacher, image_size=SIZE).teacher is None


def test_settings_come_from_the_label_the_dataset_and_the_call():
    def gamma(label="ofa", **more):
        return create_method(label, plain_student(), plain_teacher(), image_size=SIZE, **more).config.gamma

    assert (gamma(dataset="imagenet1k"), gamma("ofa[gamma=1.2]"), gamma(settings={"gamma": 2.0})) == (1.5, 1.2, 2.0)


@pytest.mark.parametrize(
    ("label", "student", "teacher", "more", "error", "words"),
    [
        ("kd", "resnet18", None, {"num_classes": 10}, UsageError, "kd learns from a teacher"),
        ("kd", "resnet18", "swin_t", {}, UsageError, "give num_classes"),
        ("kd", "resnet18", "swin_t", {"num_classes": 100}, TeacherError, "1000 classes apart"),
        ("kd", "resnet_s", "resnet_m", {"num_classes": 10}, TeacherError, "no hub weights exist for resnet_m"),
        ("kd", "resnet_z", plain_teacher, {}, UsageError, "resnet_z"),
        ("kd", plain_student, plain_teacher, {}, UsageError, "176 px.*64 px"),
        ("kd", plain_student, plain_teacher, {"image_size": SIZE, "num_classes": 7}, UsageError, "10 classes"),
        ("kd", lambda: torchvision.models.resnet18(), plain_teacher, {}, UsageError, "1000 classes.* 10 classes"),
        ("kdd", plain_student, plain_teacher, {"image_size": SIZE}, UsageError, "kdd"),
        ("pcagl", f"timm:{TEACHER}", lambda: plain_student(), {"image_size": 224}, UsageError, "refuses"),
    ],
)
def test_what_is_missing_is_said(label, student, teacher, more, error, words):
    student, teacher = (made() if callable(made) else made for made in (student, teacher))
    with pytest.raises(error, match=words):
        create_method(label, student, teacher, **more)


def test_labels_ask_for_the_index():
    method = create_method("crd", plain_student(), plain_teacher(), image_size=SIZE, labels=torch.arange(20) % CLASSES)
    with pytest.raises(UsageError, match="index"):
        make_batch(method, torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, dtype=torch.long))


def test_a_network_in_stages_keeps_its_weights_and_its_mode():
    net = plain_teacher().train()
    images = torch.randn(2, 3, SIZE, SIZE)
    model = StagedModel.wrap(net)
    assert model.training and model.net is net and model.image_size == SIZE
    assert torch.equal(model.eval()(images).logits, net(images))


def test_a_class_without_a_config_gets_its_pairs():
    recipe, dataset = load_recipe("demo"), load_dataset("fashion_demo")
    student, teacher = (StagedModel(name, dataset.num_classes, recipe.image_size) for name in ("resnet_s", "vit_xs"))
    method = build_method(get_method("kd"), student, teacher, seed=0)
    assert method.config == get_method("kd").Config()
