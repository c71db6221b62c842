"""What is said of a plan before it starts."""

import re
from dataclasses import replace

import pytest

from cakdbench.data.datasets import load_dataset
from cakdbench.data.splits import Split
from cakdbench.data.stream import check_batches
from cakdbench.engine.inits import hub_at_hand
from cakdbench.recipes import load_recipe
from cakdbench.utils.errors import UsageError, WeightsError


@pytest.fixture
def entries(tmp_path):
    """A file with a teacher that comes as a file, one that is trained, and one whose file is there."""
    (tmp_path / "there.pth").write_bytes(b"weights")
    path = tmp_path / "own.toml"
    path.write_text("".join(
        f'[[teachers]]\nmodel = "{model}"\ndataset = "cifar100"\n{source}\n'
        for model, source in (("resnet_m", 'path = "gone.pth"'), ("vit_m", 'train = "demo_teacher"'),
                              ("swin_m", 'path = "there.pth"'))
    ))  # fmt: skip
    return path


def dry_run(shell, entries, pairs):
    arguments = ["--methods", "kd", *shell.places(), "--cpu", "--dry-run", "--teachers", str(entries)]
    return shell("run", "--pairs", pairs, "--recipe", "demo", *arguments)


def test_without_the_data_the_missing_teachers_are_named_too(shell, entries):
    teachers = ("resnet_m", "vit_m", "swin_m", "convnext_m")
    code, output = dry_run(shell, entries, ",".join(f"{teacher}>vit_xs@cifar100" for teacher in teachers))
    assert code == 0, output
    missing = [line for line in output.splitlines() if line.startswith("missing before it can start")]
    assert len(missing) == 3
    assert "cifar-100-python" in missing[0]
    assert "gone.pth" in missing[1] and "resnet_m" in missing[1]
    assert "no teacher convnext_m for cifar100" in missing[2]
    assert "teacher to train first: vit_m" in output and "there.pth" not in output
    assert "estimate: about" in output


def test_a_run_stops_at_the_first_of_them(shell, entries):
    code, output = shell(
        "run", "--pairs", "resnet_m>vit_xs@cifar100", "--recipe", "demo", "--methods", "kd", *shell.places(),
        "--cpu", "--teachers", str(entries),
    )  # fmt: skip
    assert code != 0 and "cifar-100-python" in output and not shell.store.exists()


@pytest.mark.parametrize(
    ("student", "words"), [("vit_xs", "it has none"), ("timm:resnet10t", "resnet10t of timm's hub are not here yet")]
)
def test_hub_weights_of_a_student_that_are_not_here_are_named_before_the_run(monkeypatch, tmp_path, student, words):
    monkeypatch.setattr("cakdbench.models.catalog.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=f"the student {student} cannot start from hub: .*{words}"):
        hub_at_hand(student)


@pytest.mark.parametrize("changes", [{"global_batch": 6000, "local_batch": 50}, {"global_batch": 50}])
@pytest.mark.parametrize("owner", ["recipe", "teacher"])
def test_batches_that_do_not_fit_name_the_setting_that_mends_it(changes, owner):
    recipe = load_recipe("demo_teacher").override(changes)
    with pytest.raises(UsageError, match=f"the {owner}'s global_batch .* set {owner}[.](global|local)_batch"):
        check_batches(load_dataset("fashion_demo"), recipe, 2, owner)


@pytest.mark.parametrize(("size", "world"), [(49, 1), (49, 2), (1000, 1), (130, 3)])
@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_the_batches_that_are_named_fit(size, world, mixup):
    data = load_dataset("fashion_demo")
    data = replace(data, train=Split(data.train.labels[:size], data.train.image))
    recipe = load_recipe("demo").override({"global_batch": 2048, "local_batch": 64, "augment.mixup": mixup})
    with pytest.raises(UsageError, match="exceeds") as error:
        check_batches(data, recipe, world)
    settings = dict(re.findall(r"recipe[.](\w+)=(\d+)", str(error.value)))
    check_batches(data, recipe.override({name: int(value) for name, value in settings.items()}), world)


def test_a_teacher_of_another_precision_is_not_trained_in_this_one(shell, tmp_path):
    (tmp_path / "own.toml").write_text(
        '[[teachers]]\nmodel = "resnet_s"\ndataset = "fashion_demo"\ntrain = "demo_teacher"\nprecision = "bf16"\n'
    )
    own = [*shell.places(), "--cpu", "--teachers", str(tmp_path / "own.toml")]
    advice = "computes in fp32: train it with `cakdbench teacher train resnet_s@fashion_demo --precision bf16`"
    code, output = shell("run", "--pairs", "resnet_s>vit_xs@fashion_demo", "--recipe", "demo", "--methods", "kd", *own)
    assert code == 1 and advice in output
    code, output = shell("teacher", "train", "resnet_s@fashion_demo", *own)
    assert code == 1 and advice in output and not list(shell.store.glob("scratch-*"))


def test_a_teacher_that_is_not_trained_yet_is_not_called_damaged(shell):
    code, output = shell("teacher", "check", "resnet_m@fashion_demo", *shell.places(), "--cpu")
    assert code == 1 and "is not trained yet: `cakdbench teacher train resnet_m@fashion_demo`" in output
