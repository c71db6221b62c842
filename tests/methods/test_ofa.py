"""OFA as a method: the released branches, their sizes, where they fit, and what the settings change."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cakdbench.methods.ofa import OFA, count_merges, init_weights, ofa_loss
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from tests.methods.method_lab import CLASSES, MINI, batch_for, make, student, teacher


def extra_parameters(teacher, student, classes=1000, **config):
    with torch.device("meta"):
        models = StagedModel(student, classes), StagedModel(teacher, classes)
        return OFA(*models, OFA.Config(**config)).extra_parameters()


@pytest.mark.parametrize(
    "teacher, student, released, paper, hundred",
    [
        ("deit_t", "resnet18", 3_041_184, 4_920_736, 1_194_384),
        ("resnet50", "deit_t", 4_477_984, 5_810_848, 3_783_184),
        ("convnext_t", "resmlp_s12", 16_324_768, 21_644_704, 14_938_768),
    ],
)
def test_branches_have_the_parameters_of_the_released_design(teacher, student, released, paper, hundred):
    assert extra_parameters(teacher, student) == released
    assert extra_parameters(teacher, student, depth="paper") == paper
    assert extra_parameters(teacher, student, classes=100) == hundred


@pytest.mark.parametrize("family", MINI)
@pytest.mark.parametrize("depth", ["released", "paper"])
def test_every_stage_of_every_family_gives_logits(family, depth):
    frozen = teacher("cnn")
    method, images = make(OFA, frozen, student(family), depth=depth), batch_for().images
    features = method.student(images, stages=True).stages
    for stage, feature in enumerate(features, 1):
        assert method.branches[str(stage)](feature).shape == (len(images), CLASSES)


def test_losses_are_the_weighted_ofa_loss_of_each_logits():
    frozen = teacher("cnn")
    settings = {"gamma": 1.5, "stages": (2, 3), "stage_gammas": (1.2, 0.9), "kd_weight": 0.5, "ofa_weight": 0.1}
    method, batch = make(OFA, frozen, student("vit"), **settings), batch_for(frozen)
    step = method(batch)
    features = method.student(batch.images, stages=True).stages
    given = batch.teacher.logits, batch.target
    expected = {"label": batch.label_loss(step.logits), "kd": 0.5 * ofa_loss(step.logits, *given, 1.5)}
    for stage, gamma in [(2, 1.2), (3, 0.9)]:
        expected[f"ofa_{stage}"] = 0.1 * ofa_loss(method.branches[str(stage)](features[stage - 1]), *given, gamma)
    assert {k: v.item() for k, v in step.losses.items()} == pytest.approx({k: v.item() for k, v in expected.items()})


def test_paper_form_does_not_count_the_labels_twice():
    frozen = teacher("cnn")
    assert "label" not in make(OFA, frozen, student("vit"), form="paper")(batch_for(frozen)).losses


def test_paper_form_keeps_the_labels_where_no_loss_of_the_students_logits_contains_them():
    frozen = teacher("cnn")
    assert "label" in make(OFA, frozen, student("vit"), form="paper", kd_weight=0.0)(batch_for(frozen)).losses


def test_branch_weight_0_builds_no_branch():
    frozen = teacher("cnn")
    method = make(OFA, frozen, student("vit"), ofa_weight=0.0)
    assert method.extra_parameters() == 0
    assert set(method(batch_for(frozen)).losses) == {"label", "kd"}


def test_branches_start_as_the_released_code_starts_them():
    frozen = teacher("cnn")
    for family in ("cnn", "vit"):
        for module in make(OFA, frozen, student(family)).branches.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                assert not module.bias.any()
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all() and not module.bias.any()
    layers = nn.ModuleList([nn.Conv2d(64, 128, 3), nn.Linear(256, 256)])
    init_weights(layers)
    assert layers[0].weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert layers[1].weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    "side, size, merges",
    [(56, 224, 3), (28, 224, 2), (14, 224, 1), (7, 224, 0), (4, 64, 1), (16, 64, 3), (12, 384, 0), (6, 96, 1)]
    + [(16, 224, None), (12, 224, None), (1, 64, None), (2, 16, None)],
)
def test_grids_merge_to_the_image_size_over_32(side, size, merges):
    assert count_merges((side, side), size) == merges


def test_grids_that_are_not_square_are_not_merged():
    assert count_merges((14, 7), 224) is None


@pytest.mark.parametrize(
    "name, size, grid", [("timm:vit_small_patch14_dinov2", 224, "16x16"), ("timm:vit_tiny_patch16_224", 240, "15x15")]
)
def test_refuses_token_grids_that_cannot_merge(name, size, grid):
    pair = model_info("resnet18", 10, size), model_info(name, 10, size)
    reason = OFA.refuses(*pair, OFA.Config())
    assert f"down to 7x7 (image size / 32), which stage 1 of {name} with its {grid} patches" in reason
    assert "multiple of 32" in reason
    assert OFA.refuses(*pair, OFA.Config(stages=())) is None


def test_refuses_widths_its_branches_cannot_take():
    frozen, vit = model_info("resnet18", 10, 64), model_info("vit_xs", 10, 64)
    wider = replace(vit, width=128)
    assert "as wide as the final feature (128), not 64" in OFA.refuses(frozen, wider, OFA.Config())
    odd = replace(vit, width=66, layouts=tuple(replace(layout, channels=66) for layout in vit.layouts))
    assert "4 heads, which do not divide the width 66 of vit_xs" in OFA.refuses(frozen, odd, OFA.Config())
    assert OFA.refuses(frozen, vit, OFA.Config()) is None


@pytest.mark.parametrize(
    "dataset, student, gamma, weight",
    [("cifar100", "resnet18", 1.0, 0.1), ("cifar100", "deit_t", 1.0, 1.0), ("imagenet1k", "resnet18", 1.5, 1.0)],
)
def test_settings_of_the_authors(dataset, student, gamma, weight):
    infos = model_info("swin_t", 100), model_info(student, 100)
    config = resolve_config(OFA, None, *infos, dataset)
    assert (config.gamma, config.ofa_weight) == (gamma, weight)
    assert resolve_config(OFA, "weight_1", *infos, dataset).ofa_weight == 1.0
