"""Teacher entries: weights and accuracies of the registry, users' own files, and how wrong ones are named."""

import pytest
import timm
from timm.models import get_pretrained_cfg
from torchvision.models import ResNet34_Weights, ResNet50_Weights

from cakdbench.grid.teacher_file import remove_entry
from cakdbench.grid.teachers import load_teachers, teachers_from_file
from cakdbench.models.zoo import MODELS, hub_statistics
from cakdbench.recipes import load_recipe
from cakdbench.utils.errors import UsageError

IMAGENET = {
    "deit_t": ("deit_tiny_patch16_224.fb_in1k", 72.17),
    "swin_t": ("swin_tiny_patch4_window7_224.ms_in1k", 81.38),
    "mixer_b16": ("mixer_b16_224.goog_in21k_ft_in1k", 76.62),
    "convnext_t": ("convnext_tiny.fb_in1k", 82.05),
    "resnet50": ("resnet50.a1_in1k", 80.38),
}
CIFAR = {
    "swin_t": (89.26, 89.26),
    "vit_s": (92.04, 92.44),
    "mixer_b16": (87.29, 87.62),
    "convnext_t": (88.41, 88.42),
}


@pytest.fixture(scope="module")
def registry():
    return load_teachers()


def ask_for_all(files=()):
    entries = load_teachers(files)
    return [entries[name] for name in entries]


def written(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_registry_names_what_exists(registry):
    assert ask_for_all() == list(registry.values())


@pytest.mark.parametrize("model", IMAGENET)
def test_imagenet_teachers_of_the_papers(registry, model):
    entry = registry[model, "imagenet1k"]
    assert (entry.hub, entry.accuracy) == IMAGENET[model]
    assert entry.allowed == 0.5


@pytest.mark.parametrize("model", CIFAR)
def test_the_ofa_files_keep_both_the_printed_and_the_measured_accuracy(registry, model):
    entry = registry[model, "cifar100"]
    printed, measured = CIFAR[model]
    assert entry.accuracy == printed and [each.accuracy for each in entry.reported] == [measured]
    assert abs(measured - printed) <= entry.allowed == 0.5
    assert entry.url.startswith("https://github.com/Hao840/OFAKD/releases/download/checkpoint-cifar100/")
    assert entry.file == f"{model}@cifar100.pth"


def test_hub_weights_exist_for_the_entrys_model(registry):
    available = set(timm.list_pretrained())
    for entry in registry.values():
        if entry.hub:
            assert entry.hub in available
            assert entry.hub.partition(".")[0] == MODELS[entry.zoo_model].timm


def test_the_imagenet_statistics_come_with_the_hub_weights(registry):
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert hub_statistics(registry["mixer_b16", "imagenet1k"].hub) == half
    assert hub_statistics(registry["vit_b16", "imagenet1k"].hub) == half
    assert hub_statistics(registry["swin_t", "imagenet1k"].hub) != half


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet50:tv", ResNet50_Weights.IMAGENET1K_V1), ("resnet34", ResNet34_Weights.IMAGENET1K_V1)],
)
def test_torchvisions_teachers_have_the_accuracy_torchvision_states(registry, name, weights):
    entry = registry[name, "imagenet1k"]
    assert get_pretrained_cfg(entry.hub).url == weights.url
    assert entry.accuracy == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], abs=0.01)


def test_one_model_with_two_weights_is_two_teachers(registry):
    plain, tv = registry["resnet50", "imagenet1k"], registry["resnet50:tv", "imagenet1k"]
    assert plain.zoo_model == tv.zoo_model == "resnet50" and plain.hub != tv.hub
    assert tv.reported[0].accuracy == 76.61


def test_trained_teachers_have_a_recipe_and_ours_is_the_tighter_gate(registry):
    trained = [entry for entry in registry.values() if entry.train]
    assert {entry.dataset for entry in trained} == {"cifar100", "fashion_demo", "fashion_tiny"}
    for entry in trained:
        assert (entry.accuracy, entry.allowed) == (None, 0.1)
        starts = load_recipe(entry.train).init
        assert starts == ("hub" if entry.dataset == "cifar100" else "random")
        assert starts == "random" or MODELS[entry.model].hub
        assert load_recipe(entry.train).image_size == MODELS[entry.model].image_size


def test_a_free_timm_name_on_imagenet_means_its_own_weights(registry):
    entry = registry["timm:convnext_nano.in12k_ft_in1k", "imagenet1k"]
    assert (entry.hub, entry.accuracy) == ("convnext_nano.in12k_ft_in1k", None)
    assert registry["timm:convnext_nano", "imagenet1k"].hub == "convnext_nano"
    for key in (("timm:convnext_nano", "cifar100"), ("resnet18", "imagenet1k"), ("resnet50:x", "imagenet1k")):
        with pytest.raises(KeyError):
            registry[key]


MINE = """
[[teachers]]
model = "swin_t"
dataset = "cifar100"
path = "weights/swin.safetensors"
accuracy = 90.5
tolerance = 0.2

[[teachers]]
model = "timm:convnext_nano"
dataset = "timm:torch/qmnist"
train = "demo_teacher"
"""


def test_own_files_add_and_override_and_the_last_one_wins(tmp_path, registry):
    first = written(tmp_path, MINE)
    second = written(tmp_path, MINE.replace("90.5", "91").split("\n\n")[0], "second.toml")
    found = load_teachers([first, second])
    entry = found["swin_t", "cifar100"]
    assert (entry.accuracy, entry.allowed, entry.url) == (91, 0.2, None)
    assert entry.path == str(tmp_path / "weights" / "swin.safetensors") and entry.source == "swin.safetensors"
    assert found["timm:convnext_nano", "timm:torch/qmnist"].source == "trained by demo_teacher"
    assert found["vit_s", "cifar100"] == registry["vit_s", "cifar100"]


def test_absolute_paths_stay(tmp_path):
    absolute = tmp_path / "elsewhere" / "swin.pth"
    found = teachers_from_file(written(tmp_path, MINE.replace("weights/swin.safetensors", str(absolute))))
    assert found["swin_t", "cifar100"].path == str(absolute)


HEAD = '[[teachers]]\nmodel = "swin_t"\ndataset = "cifar100"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[teachers]", ["not valid TOML"]),
        ('[teachers]\nmodel = "swin_t"\n', ["teachers: begin each table with [[teachers]]"]),
        ('[[teacher]]\nmodel = "swin_t"\n', ["'teacher'", "did you mean teachers"]),
        (HEAD, ["teachers[1]", "one of hub, url, path, train", "none"]),
        (HEAD + 'path = "a"\nurl = "b"\n', ["teachers[1]", "url, path"]),
        (HEAD + 'pth = "a"\n', ["'teachers[1].pth'", "teachers.path"]),
        (HEAD + 'path = "a"\naccuracy = "90"\n', ["teachers[1].accuracy", "number", "'90'"]),
        (HEAD + 'path = "a"\naccuracy = 900\n', ["teachers[1].accuracy", "100"]),
        (HEAD + 'path = "a"\ntolerance = -1\n', ["teachers[1].tolerance"]),
        (HEAD + 'path = "a"\nreported = [{ accuracy = 9 }]\n', ["teachers[1].reported[1].by: missing"]),
        (HEAD + 'train = "demo"\naccuracy = 9\n', ["teachers[1]", "accuracy"]),
        (HEAD + 'train = "dem"\n', ["teachers[1]", "unknown recipe 'dem'", "demo"]),
        (HEAD + 'hub = "swin_tiny_patch4_window7_224.ms_in2k"\n', ["teachers[1]", "ms_in2k", "ms_in1k"]),
        (HEAD.replace("swin_t", "swim_t") + 'path = "a"\n', ["teachers[1]", "'swim_t'", "swin_t"]),
        (HEAD.replace("cifar100", "cifar99") + 'path = "a"\n', ["teachers[1]", "'cifar99'", "cifar"]),
        (2 * (HEAD + 'path = "a"\n'), ["teachers[2]", "entry above"]),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        ask_for_all([path])
    assert all(word in str(error.value) for word in [*words, str(path)]), error.value


def test_an_entry_for_data_that_nobody_described_stops_only_who_asks_for_it(tmp_path):
    path = written(tmp_path, MINE.replace("timm:torch/qmnist", "shapes"))
    entries = load_teachers([path])
    assert entries["swin_t", "cifar100"].accuracy == 90.5
    for _ in range(2):
        with pytest.raises(UsageError, match="unknown dataset 'shapes'") as error:
            entries["timm:convnext_nano", "shapes"]
        assert f"{path}: teachers[2]: " in str(error.value)
    assert remove_entry(path, "timm:convnext_nano", "shapes")
    assert list(teachers_from_file(path)) == [("swin_t", "cifar100")]
