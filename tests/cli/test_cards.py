"""Method cards: every registered method describes itself, and the lists say so."""

from dataclasses import fields

import pytest

from cakdbench.cli.cards import extra_parameters, one_pair
from cakdbench.method import KINDS
from cakdbench.registry import get_method, method_ids, setting_docs

COST_PAIRS = ("deit_t>resnet18@imagenet1k", "resnet50>deit_t@imagenet1k", "convnext_t>resmlp_s12@imagenet1k")


@pytest.mark.parametrize("id", method_ids())
def test_every_setting_of_every_method_is_explained(id):
    method = get_method(id)
    texts = setting_docs(method.Config)
    assert [field.name for field in fields(method.Config) if not texts.get(field.name)] == []
    assert method.kind in KINDS
    assert id == "scratch" or (method.year and method.paper and str(method.year) in method.paper)


@pytest.mark.parametrize("id", method_ids())
def test_explain_shows_formula_settings_and_variants(shell, id):
    code, output = shell("explain", id)
    method = get_method(id)
    assert code == 0 and f"({id}" in output
    assert " = " in output.partition("Paper and code")[0]
    for name in [field.name for field in fields(method.Config)] + [f"{id}:{variant}" for variant in method.variants]:
        assert name in output
    assert id == "scratch" or "Paper and code" in output


def test_an_alias_is_explained_as_its_method(shell):
    assert "FBT (fbt, tas)" in shell("explain", "tas")[1]


def test_an_unknown_method_is_named_with_the_nearest(shell):
    code, output = shell("explain", "fbd")
    assert code == 2 and "fbt" in output


def test_the_list_of_methods_has_a_line_for_each_and_counts_on_the_pair(shell):
    code, output = shell("list", "methods", "--pair", COST_PAIRS[0])
    assert code == 0
    for id in method_ids():
        assert id in output
    assert "90,368" in output and "3,041,184" in output


def test_variants_are_listed_with_what_they_change(shell):
    code, output = shell("list", "methods", "--variants")
    assert code == 0 and "fbt:no_infonce" in output and "feature_weight = 0.0" in output


def test_more_than_one_pair_is_refused(shell):
    code, output = shell("list", "methods", "--pair", "demo")
    assert code == 2 and "give one pair" in output


@pytest.mark.parametrize("id", ["cc", "crd"])
def test_embeddings_have_the_published_parameters(id):
    counts = [extra_parameters(get_method(id), one_pair(pair)) for pair in COST_PAIRS]
    assert counts == [90_368, 286_976, 147_712]
