"""Networks of one's own: docs/own_network.md as it stands there, their keys, and what is refused."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from cakdbench import create_method
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.models.staged import StagedModel
from cakdbench.records import TeacherIdentity
from cakdbench.registry import load_models
from cakdbench.source_hash import model_source
from cakdbench.store import Store, run_key
from cakdbench.train.timm_task import MethodTask
from cakdbench.utils.errors import UsageError
from tests.cli_lab import SHORT

PAGE = (Path(__file__).parents[1] / "docs/own_network.md").read_text()
PLAIN, ADAPTER, BACKBONE, PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(TEACHERS,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^    cakdbench (.*)$", PAGE, re.MULTILINE)
TINY = "timm:folder/tiny"
ONCE = (*SHORT, "recipe.epochs=1", "teacher.epochs=1")


@pytest.fixture
def my_net(tmp_path):
    path = tmp_path / "my_net.py"
    path.write_text(PLAIN)
    return path


def labels(shell):
    return {record.label for record in Store(shell.store).records()[0] if record.recipe_name == "demo"}


WITH_STAGES = pytest.param("\n".join((PLAIN, ADAPTER, BACKBONE)), marks=pytest.mark.slow)


@pytest.mark.parametrize("text", [PLAIN, WITH_STAGES], ids=["plain", "with stages"])
def test_the_page_s_commands_work_as_they_stand_there(text, shell):
    """On a smaller dataset, and for fewer steps."""
    (shell.work / "my_net.py").write_text(text)
    (shell.work / "my_teachers.toml").write_text(TEACHERS.replace("fashion_demo", TINY))
    staged = text != PLAIN
    for command in COMMANDS:
        if not command.startswith("run"):
            code, output = shell(*shlex.split(command))
        elif ("fitnet" in command) == staged:
            code, output = shell.run(*shlex.split(command.replace("fashion_demo", TINY))[1:], settings=ONCE)
            assert "refused" not in output, output
        assert code == 0, output
    key = next(record.key for record in Store(shell.store).records()[0] if record.identity.student == "my_net")
    files = "--model-file", str(shell.work / "my_net.py"), "--store", str(shell.store)
    code, output = shell("export", key, "--to", str(shell.work / "student"), *files)
    assert code == 0 and "my_net" in output and (shell.work / "student/model.safetensors").is_file(), output
    assert labels(shell) == {"scratch", "kd"} | ({"fitnet", "ofa"} if staged else {"dkd", "lskd", "cc"})


def test_features_are_refused_without_an_adapter_and_given_with_one(my_net):
    load_models(my_net)
    pair = resolve_pairs("resnet_m>my_net@fashion_demo", "demo")
    plan = make_plan(["fitnet", "ofa", "cc"], pair, [0], Settings())
    reasons = {refusal.label: refusal.reason for refusal in plan.refusals}
    assert reasons.keys() == {"fitnet", "ofa"} and all("no adapter" in reason for reason in reasons.values())
    my_net.write_text(PLAIN + ADAPTER + BACKBONE)
    assert load_models(my_net) == ["my_net", "my_backbone"]
    for name in ("my_net", "my_backbone"):
        pair = resolve_pairs(f"resnet_m>{name}@fashion_demo", "demo")
        assert not make_plan(["fitnet", "ofa", "cc"], pair, [0], Settings()).refusals
        model, images = StagedModel(name, 10, 64).eval(), torch.randn(2, 3, 64, 64)
        output = model(images, stages=True)
        assert torch.equal(output.logits, model.net(images))
        assert [x.shape[1:] for x in output.stages] == [layout.shape for layout in model.layouts]


def test_the_code_is_part_of_the_key_of_every_run_with_the_network(my_net):
    def keys():
        load_models(my_net)
        source = model_source("my_net")
        teacher = TeacherIdentity(model="my_net", sha256="a" * 64, source=source)
        plans = [make_plan(["kd"], resolve_pairs(p, "demo"), [0], Settings()).cells for p in pairs]
        dataset = type("D", (), {"name": "fashion_demo", "fingerprint": "f" * 64, "skipped": None})
        return [run_key(c.identity(dataset, teacher if c.needs_teacher else None)) for cells in plans for c in cells]

    pairs = ["resnet_m>my_net@fashion_demo", "my_net>vit_xs@fashion_demo"]
    before = keys()
    my_net.write_text(PLAIN.replace("class MyNet(nn.Module):", 'class MyNet(nn.Module):\n    """Told."""  # here\n'))
    assert keys() == before
    my_net.write_text(PLAIN.replace("nn.ReLU()", "nn.GELU()"))
    changed = [old != new for old, new in zip(before, keys(), strict=True)]
    assert changed == [True, True, False, True]  # scratch of vit_xs has nothing to do with it


def test_a_network_in_timm_s_registry_needs_no_config(tmp_path):
    (tmp_path / "named.py").write_text(
        "import timm\nfrom timm.models.resnet import ResNet, BasicBlock\n\n@timm.models.register_model\n"
        "def my_resnet_of_ten(pretrained=False, num_classes=10, **options):\n"
        "    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes, channels=(8, 8, 16, 16))\n"
    )
    assert load_models(tmp_path / "named.py") == ["timm:my_resnet_of_ten"]
    model = StagedModel("timm:my_resnet_of_ten", 7, 64)
    assert model.composable and model.num_classes == 7 and model_source(model.name)
    assert not hasattr(model.net, "pretrained_cfg") and StagedModel.wrap(model.net, 64).info.parts >= {"stages"}
    assert model_source("timm:resnet18") is None and model_source("resnet18") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "registers no network"),
        (PLAIN.replace('"my_net"', '"resnet18"'), "'resnet18' is taken by cakdbench"),
        (PLAIN.replace('"my_net"', '"my>net"'), "letters, digits"),
        (PLAIN.replace("import nn", "import nix"), r"model file .*my_net.py cannot be loaded: ImportError.*line 1"),
        (PLAIN.replace("(64, num_classes)", "(64, 5)"), "my_net gives 5 logits for 10 classes"),
        (PLAIN.replace("x.mean((2, 3))", "x"), r"my_net does not run at 64 px"),
        (PLAIN.replace("return self.head(x.mean((2, 3)))", "return x"), r"MyNet gives \(1, 64, 2, 2\): let it"),
        (f"{PLAIN}\n@register_model('x')\ndef make(num_classes): MyNet(num_classes)\n", "x is made as NoneType"),
        (PLAIN.replace("super().__init__()", "raise KeyError('no')"), r"cannot be made with .*KeyError.*my_net.py"),
        (PLAIN + ADAPTER.replace("mean", "amax"), "MyStages does not run my_net as"),
        (PLAIN + ADAPTER.replace("number - 1", "number"), r"stages of my_net at 64 px: .*\(my_net.py"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(text, words, my_net):
    my_net.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_models(my_net)
        StagedModel("x" if "'x'" in text else "my_net", 10, 64)
    assert "\n" not in str(caught.value)


class Twice(nn.Module):
    """A network of two heads."""

    def __init__(self, form=tuple):
        super().__init__()
        self.conv, self.heads, self.form = nn.Conv2d(3, 4, 3), nn.ModuleList(nn.Linear(4, 6) for _ in "ab"), form

    def forward(self, images):
        x = self.conv(images).mean((2, 3))
        return self.form(head(x) for head in self.heads)


@pytest.mark.parametrize("form", [tuple, list])
def test_of_several_heads_the_mean_counts(form):
    net = Twice(form)
    model, images = StagedModel.wrap(net, 32), torch.randn(2, 3, 32, 32)
    assert model.info.parts == {"logits", "model"} and model.num_classes == 6
    assert torch.equal(model(images).logits, sum(net(images)) / 2)


def nets(classes=6):
    return timm.create_model("test_resnet", num_classes=6), nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


@pytest.mark.parametrize("make", [create_method, MethodTask])
def test_loops_take_plain_networks_and_those_of_timm(make):
    teacher, student = nets()
    student(torch.zeros(2, 3, 160, 160))  # the size that the teacher says it was made for
    made = make("kd", student, teacher, **({"num_classes": 6} if make is create_method else {}))
    if make is MethodTask:
        made(torch.randn(2, 3, 160, 160), torch.tensor([0, 1]))["loss"].backward()
        assert made.get_eval_model() is student and made.get_clip_parameters(exclude_head=True) == []
    method = made if make is create_method else made.method
    assert method.student.net is student and method.teacher.net is teacher
    with pytest.raises(UsageError, match="fitnet needs .*stages"):
        make("fitnet", student, teacher)


@pytest.mark.parametrize("make", [create_method, MethodTask])
def test_heads_of_other_classes_and_unknown_sizes_are_refused_in_one_line(make):
    teacher, student = nets(classes=5)
    student(torch.zeros(2, 3, 160, 160))
    with pytest.raises(UsageError, match="6.* classes.*5|5 classes"):
        make("kd", student, teacher)
    with pytest.raises(UsageError, match="Sequential does not say .*give image_size"):
        make("scratch", student, None)


def test_the_page_s_python_runs(my_net, monkeypatch):
    monkeypatch.chdir(my_net.parent)
    names = {"__name__": "__main__"}
    monkeypatch.setattr("sys.modules", {**__import__("sys").modules})
    exec(compile("\n".join((PLAIN, ADAPTER, BACKBONE, PYTHON)), "own_network.md", "exec"), names)
    assert names["method"].student.composable and not names["method"].teacher.composable
