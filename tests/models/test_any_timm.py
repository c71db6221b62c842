"""timm networks of classes that cannot be cut open: whatever can be run can be described, counted and submitted."""

import pytest
import timm
import torch

from cakdbench.cli import cards
from cakdbench.costs.bench import CountingBench
from cakdbench.costs.method_costs import MethodCost, method_cost
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.models.zoo import model_info, model_kind
from cakdbench.registry import get_method, method_ids
from cakdbench.submissions.truth import bare_model
from cakdbench.utils.errors import UsageError
from cakdbench.utils.meta import has_content

UNADAPTED = {
    "timm:regnety_002": "cnn",
    "timm:ghostnet_050": "cnn",
    "timm:mobilevit_xxs": "msa",
    "timm:test_byobnet": "cnn",
    "timm:test_nfnet": "cnn",
}
WHOLE = {  # why there are no stages, the width of what the last layer takes (0: there is no such layer), size
    "timm:efficientformer_l1": ("more than one classifier", 0, 224),
    "timm:levit_128s": ("more than one classifier", 0, 224),
    "timm:visformer_tiny": ("3 resolutions", 384, 224),
    "timm:deit_tiny_distilled_patch16_224": ("more than one classifier", 0, 224),
}
"""Networks that give no four stages, of each kind."""


@pytest.mark.parametrize("name", UNADAPTED)
def test_a_model_without_weights_is_described_as_one_with_weights(name):
    bare, real = meta_model(name, 7, 64), StagedModel(name, 7, 64)
    assert not has_content(bare) and has_content(real)
    assert bare.info == real.info and not real.composable
    assert bare.kind == model_kind(name) == UNADAPTED[name]
    shapes = {key: value.shape for key, value in real.state_dict().items()}
    assert {key: value.shape for key, value in bare.state_dict().items()} == shapes
    assert bare_model(name, 7, 64, "ofa").info == real.info


@pytest.mark.parametrize("name", WHOLE)
@torch.no_grad()
def test_a_network_without_stages_gives_its_logits_and_what_its_last_layer_takes(name):
    reason, width, size = WHOLE[name]
    model, images = StagedModel(name, 7, size).eval(), torch.randn(2, 3, size, size)
    assert model.info == model_info(name, 7, size)
    output = model(images)
    assert torch.equal(output.logits, model.net(images))
    assert model.width == width and (output.pooled is None) == (width == 0)
    if width:
        assert torch.equal(model.classifier(output.pooled), output.logits)
    for ask in (lambda: model(images, stages=True), lambda: model.layouts[0], lambda: [*model.info.layouts]):
        with pytest.raises(UsageError, match=f"{name} .*gives no stage features: .*{reason}"):
            ask()


LOGITS, POOLED = {"scratch", "kd", "dkd", "dist", "lskd"}, {"cc", "rkd", "rsd"}


@pytest.mark.parametrize(("name", "possible"), [("efficientformer_l1", LOGITS), ("visformer_tiny", LOGITS | POOLED)])
def test_needs_decide_which_methods_take_a_network(name, possible):
    for pair in (f"timm:{name}>resnet18@cifar100", f"resnet18>timm:{name}@cifar100"):
        plan = make_plan(method_ids(), resolve_pairs(pair, "ofa_cifar_cnn"), [0], Settings())
        accepted = {cell.method.id for cell in plan.cells}
        assert accepted >= possible and accepted.isdisjoint(
            {"fitnet", "at", "ofd", "reviewkd", "fcfd", "fofa", "pcagl"}
        )
        assert ("cc" in accepted) == ("cc" in possible)
        (why,) = [refusal.reason for refusal in plan.refusals if refusal.label == "at"]
        assert why.startswith(f"at needs stages, which timm:{name} does not give") and WHOLE[f"timm:{name}"][0] in why
        if pair.startswith("resnet18>"):
            assert "ofa" not in accepted  # it looks at the student's stages alone


def test_a_name_that_timm_has_given_up_is_unknown():
    with pytest.raises(UsageError, match="unknown timm model"):
        model_info("timm:jx_nest_base", 7, 224)


def test_a_size_that_a_network_does_not_take_is_no_lack_of_stages():
    with pytest.raises(UsageError, match="levit_128s does not run at 100 px .*; its own size is image_size=224"):
        model_info("timm:levit_128s", 7, 100)


@pytest.mark.skipif("gemma4_vit_167m" not in timm.list_models(), reason="this timm does not have it")
def test_models_that_ask_for_numbers_are_described():
    """Gemma's vision tower reads the size of its grid from a tensor."""
    info = model_info("timm:gemma4_vit_167m", 7, 96)
    assert info.kind == "msa" and len({layout.channels for layout in info.layouts}) == 1


@pytest.mark.parametrize("name", UNADAPTED)
@pytest.mark.parametrize("method", ["cc", "fitnet", "crd"])
def test_parameters_and_costs_are_counted_in_either_place(name, method):
    for pair in (Pair(name, "resnet_s", "fashion_demo"), Pair("resnet_m", name, "fashion_demo")):
        spec, made = PairSpec(pair, "demo"), get_method(method)
        cost = method_cost(CountingBench(spec), made)
        assert isinstance(cost, MethodCost) and cost.student_macs > 0 and cost.teacher_macs > 0
        assert cards.extra_parameters(made, spec) == cost.extra_parameters


def test_a_network_whose_classifier_reads_something_else_is_found_out(monkeypatch):
    """Where numbers exist they are compared, on whatever device the model was described."""
    real = StagedModel("timm:test_byobnet", 7, 64)
    monkeypatch.setattr(type(real.net), "forward_head", lambda self, x, pre_logits=False: x.mean((2, 3)) + 1)
    assert "stages" in meta_model("timm:test_byobnet", 7, 64).info.parts
    with pytest.raises(UsageError, match="not its classifier applied"):
        StagedModel("timm:test_byobnet", 7, 64).layouts[0]


PAIR = "timm:test_vit>timm:test_byobnet@timm:folder/tiny"
SETTINGS = ("recipe.epochs=1", "recipe.image_size=32", "recipe.global_batch=20", "recipe.local_batch=20")


def test_an_honest_run_passes_validation_and_every_command_describes_it(shell):
    (shell.work / "teachers.toml").write_text(
        '[[teachers]]\nmodel = "timm:test_vit"\ndataset = "timm:folder/tiny"\ntrain = "demo_teacher"\n'
    )
    settings = (*SETTINGS, "teacher.epochs=1", "teacher.global_batch=20", "teacher.local_batch=20",
                "teacher.image_size=32")  # fmt: skip
    teachers = ("--teachers", "teachers.toml")
    code, output = shell.run("--methods", "cc", "--dry-run", *teachers, pairs=PAIR, settings=settings)
    assert code == 0 and "teacher to train first: timm:test_vit" in output, output
    code, output = shell.run("--methods", "cc", *teachers, pairs=PAIR, settings=settings)
    assert code == 0, output
    places = ("--data-dir", str(shell.data))
    code, output = shell("submit", "all", "--by", "A. Student", "--store", str(shell.store), *places)
    assert code == 0, output
    code, output = shell("validate", "leaderboards/results", *places)
    assert code == 0 and "0 files refused" in output, output


@pytest.mark.parametrize("command", [("list", "methods"), ("explain", "crd"), ("explain", "fbt")])
def test_cards_take_any_model(shell, command):
    code, output = shell(*command, "--pair", "timm:regnety_002>resnet18@cifar100")
    assert code == 0 and "on timm:regnety_002>resnet18@cifar100" in output, output
