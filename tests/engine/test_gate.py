"""The gate before any student: a teacher whose classes, input size or outputs are wrong stops there."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from cakdbench.data.datasets import ImageDataset, Split
from cakdbench.data.splits import ArrayImages
from cakdbench.engine.gate import verify_teacher
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import permute_classes
from cakdbench.recipes import load_recipe
from cakdbench.store import Store
from cakdbench.train.events import NoEvents
from cakdbench.train.runtime import Options, Runtime
from cakdbench.utils.errors import TeacherError

NAMES = ("1", "10", "2", "Cat", "ant")
OTHER = ("ant", "1", "10", "2", "Cat")
RECIPE = load_recipe("demo").override({"image_size": 32})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return StagedModel("resnet_s", len(NAMES), 32).eval()


@pytest.fixture(scope="module")
def data(model):
    """Noise that the model is right about, but for some images."""
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (50, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = model((images - 0.5) / 0.5).logits
        model.net.fc.bias -= logits.mean(0)  # else it says one class of all noise
        labels = model((images - 0.5) / 0.5).logits.argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % len(NAMES)
    half = Split(labels, ArrayImages(pictures))
    return ImageDataset("cifar10", len(NAMES), NAMES, (0.5,) * 3, (0.5,) * 3, half, half, "f" * 64)


@pytest.fixture
def gate(tmp_path, data):
    """Writes a state and an entry, and gives what the verification of that teacher does."""

    def pass_gate(state, *entry: str, allow=False, events=None):
        save_file(state, tmp_path / "w.safetensors")
        lines = ["[[teachers]]", 'model = "resnet_s"', 'dataset = "cifar10"', 'path = "w.safetensors"', *entry]
        (tmp_path / "t.toml").write_text("\n".join(lines))
        teachers = Teachers(Store(tmp_path / "runs"), tmp_path, Settings(), [tmp_path / "t.toml"])
        teacher = teachers.load("resnet_s", data, RECIPE)
        runtime = Runtime(Accelerator(cpu=True), Options(allow_teacher_mismatch=allow), events or NoEvents())
        return teachers.identity("resnet_s", data, RECIPE), verify_teacher(teacher, data, RECIPE, runtime)

    return pass_gate


def in_other_order(model):
    state = model.export_state()
    rows = [NAMES.index(name) for name in OTHER]
    return state | {name: state[name][rows].clone() for name in ("fc.weight", "fc.bias")}


def test_a_head_in_another_order_is_permuted_and_stopped_without_its_classes(model, gate):
    plain, facts = gate(model.export_state())
    assert facts.measured == 90
    identity, facts = gate(in_other_order(model), f"classes = {list(OTHER)}".replace("'", '"'))
    assert facts.measured == 90 and not facts.mismatch_allowed and identity == plain
    with pytest.raises(TeacherError, match=r"guessing reaches 20\.00 %.*order of its classes \(classes = \[\.\.\.\]"):
        gate(in_other_order(model))
    identity, facts = gate(in_other_order(model), allow=True)
    assert facts.mismatch_allowed and facts.measured < 30 and identity.sha256 != plain.sha256
    with pytest.raises(TeacherError, match="the teacher resnet_s are not those of the data: it lacks ant and has bee"):
        gate(model.export_state(), 'classes = ["1", "10", "2", "Cat", "bee"]')


def test_a_teachers_entry_holds_the_weights_of_its_first_verified_download(model, gate):
    """The file stands for a download: once its sha256 is entered, other weights are refused."""
    first, facts = gate(model.export_state(), "accuracy = 90")
    pinned = "accuracy = 90", f'sha256 = "{first.sha256}"'
    assert gate(model.export_state(), *pinned) == (first, facts)
    state = model.export_state()
    state["fc.bias"] = state["fc.bias"] + 1e-6
    with pytest.raises(TeacherError, match=rf"has the weights .*, its entry says {first.sha256}: bring those"):
        gate(state, *pinned)


def test_an_accuracy_stated_near_chance_is_the_users_word(model, gate):
    measured = gate(in_other_order(model), allow=True)[1].measured
    said = []
    events = SimpleNamespace(say=said.append)
    assert not gate(in_other_order(model), f"accuracy = {measured}", events=events)[1].mismatch_allowed
    assert len(said) == 1 and "guessing reaches 20.00 %: it has little to teach" in said[0]
    gate(model.export_state(), "accuracy = 90", events=events)
    assert len(said) == 1


def test_the_mean_of_teachers_that_passed_alone_is_told_of_and_not_refused(model, data, tmp_path):
    """One is sure of wrong classes."""
    wrong = in_other_order(model)
    for name in ("fc.weight", "fc.bias"):
        wrong[name] = 100 * wrong[name]
    entries = []
    for name, state, accuracy in (("resnet_s", model.export_state(), 90), ("resnet_s:b", wrong, None)):
        path = f"{name.replace(':', '-')}.safetensors"
        save_file(state, tmp_path / path)
        entries += ["[[teachers]]", f'model = "{name}"', 'dataset = "cifar10"', f'path = "{path}"']
        entries += [f"accuracy = {accuracy}"] * bool(accuracy)
    (tmp_path / "t.toml").write_text("\n".join(entries))
    teachers, said = Teachers(Store(tmp_path / "runs"), tmp_path, Settings(), [tmp_path / "t.toml"]), []
    runtime = Runtime(Accelerator(cpu=True), Options(), SimpleNamespace(say=said.append))
    with pytest.raises(TeacherError, match="guessing reaches"):
        verify_teacher(teachers.load("resnet_s:b", data, RECIPE), data, RECIPE, runtime)
    facts = verify_teacher(teachers.load("resnet_s+resnet_s:b", data, RECIPE), data, RECIPE, runtime)
    assert facts.measured < 30 and not facts.mismatch_allowed
    assert len(said) == 1 and "resnet_s+resnet_s" in said[0] and "it has little to teach" in said[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_never_let_through(model, gate, value):
    state = model.export_state()
    state["fc.bias"] = state["fc.bias"].clone().index_fill(0, torch.tensor(2), value)
    with pytest.raises(TeacherError, match="not finite"):
        gate(state, allow=True)


def test_statistics_and_image_size_are_part_of_the_key_where_they_are_not_the_students(model, gate):
    state, plain = model.export_state(), gate(model.export_state())[0]
    assert gate(state, "image_size = 32", "statistics = {mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5]}")[0] == plain
    assert gate(state, "image_size = 64", allow=True)[0].image_size == 64
    fed = gate(state, "statistics = {mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.25]}", allow=True)[0]
    assert fed.statistics == ((0.5,) * 3, (0.5, 0.5, 0.25)) and plain.statistics is plain.image_size is None


def test_a_teacher_of_another_size_sees_what_timm_would_show_it():
    model = StagedModel("resnet_s", 3, 64).eval()
    model.resizes = True
    images = torch.rand(2, 3, 32, 32)
    own = torch.nn.functional.interpolate(images, (64, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        assert torch.equal(model(images, stages=True).logits, model.net(own))
        assert torch.equal(model(own).logits, model.net(own))
        large = torch.from_numpy(np.linspace(0, 1, 3 * 128 * 128, dtype=np.float32)).view(1, 3, 128, 128)
        assert model(large, stages=True).stages[0].shape == model(own, stages=True).stages[0][:1].shape


@pytest.mark.parametrize("teacher", ["swin_t", "resnet_m+swin_t"])
def test_a_plan_takes_a_teacher_that_needs_larger_images_than_its_students(teacher):
    spec = [PairSpec(Pair(teacher, "resnet_s", "cifar10"), "demo")]
    settings = Settings(recipe={"image_size": 40})
    plan = make_plan(["kd"], spec, [0], settings, teacher_sizes={("swin_t", "cifar10"): 224})
    assert {cell.label for cell in plan.cells} == {"scratch", "kd"}


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "vit_tiny_patch16_224", "vgg11"])
def test_one_and_two_heads_are_permuted(name):
    net = timm.create_model(name, num_classes=4).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for head in net.get_classifier() if isinstance(net.get_classifier(), tuple) else (net.get_classifier(),):
            for parameter in head.parameters():
                parameter.normal_()
        before = net(images)
        permute_classes(SimpleNamespace(net=net, name=name), [2, 0, 3, 1])
        assert torch.allclose(net(images), before[:, [2, 0, 3, 1]], atol=1e-6)
