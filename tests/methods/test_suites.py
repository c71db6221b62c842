"""Every pair of the other suites is taken or refused by every method, and pieces fit; without allocating weights."""

import pytest
import torch

from cakdbench.cards import extra_parameters
from cakdbench.data.datasets import dataset_facts
from cakdbench.methods.fbt import FBT
from cakdbench.methods.kd import KD
from cakdbench.methods.ofa import OFA
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import load_recipe
from cakdbench.registry import get_method, method_ids, resolve_config
from cakdbench.suites import resolve_pairs, suites

STEPPED = resolve_pairs("cifar_all,imagenet_all")  # in test_cifar_pairs_224 and test_imagenet_pairs_224
SPECS = {
    (spec.pair.teacher_model, spec.pair.student): spec
    for suite in suites().values()
    for spec in suite.specs
    if spec not in STEPPED
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: str(spec.pair))
def test_branches_and_the_fused_model_give_logits(spec):
    pair, size = spec.pair, load_recipe(spec.recipe).image_size
    classes = dataset_facts(pair.dataset).num_classes
    with torch.device("meta"), torch.no_grad():
        models = StagedModel(pair.student, classes, size), StagedModel(pair.teacher_model, classes, size)
        own, given = (model(torch.zeros(2, 3, size, size), stages=True).stages for model in models)
        _, ofa, fbt = (taken(method, *models, pair.dataset) for method in (KD, OFA, FBT))
        for stage, branch in ofa.branches.items():
            assert branch(own[int(stage) - 1]).shape == (2, classes)
        fused = fbt.fuse((own if fbt.student_in_front else given)[2])
        assert fused.logits.shape == (2, classes) and fused.pooled.shape == (2, fbt.back.width)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: str(spec.pair))
def test_only_pcagl_refuses_pairs(spec):
    refused = {id for id in method_ids() if extra_parameters(get_method(id), spec) is None}
    assert refused <= {"pcagl"} | NARROW.get(spec.pair.teacher_model, set())


NARROW = {"mobilenet_s": {"fofa"}}
"""Teachers with a stage too narrow for the prompts of FOFA."""


def taken(method, student, teacher, dataset):
    config = resolve_config(method, None, teacher.info, student.info, dataset)
    assert method.refuses(teacher.info, student.info, config) is None
    return method(student, teacher, config)
