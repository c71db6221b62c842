"""Every pair of the other suites is taken or refused by every method, and pieces fit; without allocating weights."""

import functools

import pytest
import torch

from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.suites import PairSpec, resolve_pairs, suites
from cakdbench.method import Method
from cakdbench.methods.fbt import FBT
from cakdbench.methods.kd import KD
from cakdbench.methods.ofa import OFA
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import load_recipe
from cakdbench.registry import get_method, method_ids, resolve_config

STEPPED = resolve_pairs("cifar_all,imagenet_all")  # in test_cifar_pairs_224 and test_imagenet_pairs_224
SPECS = {
    (spec.pair.teacher_models[0], spec.pair.student): spec
    for suite in suites().values()
    for spec in suite.specs
    if spec not in STEPPED
}
NARROW = {"mobilenet_s": {"fofa"}}
"""Teachers with a stage too narrow for the prompts of FOFA."""

each_pair = pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: str(spec.pair))


@each_pair
def test_branches_and_the_fused_model_give_logits(spec):
    models, classes = models_of(spec), dataset_facts(spec.pair.dataset).num_classes
    _, ofa, fbt = (built(method, *models, spec) for method in (KD, OFA, FBT))
    with torch.device("meta"), torch.no_grad():
        own, given = ([torch.zeros(2, *layout.shape) for layout in model.layouts] for model in models)
        for stage, branch in ofa.branches.items():
            assert branch(own[int(stage) - 1]).shape == (2, classes)
        fused = fbt.fuse((own if fbt.student_in_front else given)[2])
        assert fused.logits.shape == (2, classes) and fused.pooled.shape == (2, fbt.back.width)


@each_pair
def test_only_pcagl_refuses_pairs(spec):
    refused = {id for id in method_ids() if built(get_method(id), *models_of(spec), spec) is None}
    assert refused <= {"pcagl"} | NARROW.get(spec.pair.teacher_models[0], set())


def models_of(spec: PairSpec) -> tuple[StagedModel, StagedModel]:
    """Student and teacher."""
    pair, recipe = spec.pair, load_recipe(spec.recipe)
    size = dataset_facts(pair.dataset).num_classes, recipe.image_size, recipe.split
    return model(pair.student, *size), model(pair.teacher_models[0], *size)


@functools.cache
def model(name: str, classes: int, size: int, split: str) -> StagedModel:
    with torch.device("meta"):
        return StagedModel(name, classes, size, split=split)


def built(method: type[Method], student: StagedModel, teacher: StagedModel, spec: PairSpec) -> Method | None:
    """The method on the pair, or None if it refuses it."""
    config = resolve_config(method, None, teacher.info, student.info, spec.pair.dataset)
    if method.refuses(teacher.info, student.info, config):
        return None
    labels = torch.arange(2 * student.num_classes) % student.num_classes
    with torch.device("meta"):
        return method(student, teacher if method.needs else None, config, labels)
