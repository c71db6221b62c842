"""`--set`: numbers by name, grids of them, and what is refused."""

from dataclasses import replace

import pytest

from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.utils.errors import UsageError

PAIR = resolve_pairs("resnet_m>vit_xs@fashion_demo")


def test_a_grid_makes_a_cell_of_every_choice():
    settings = Settings.parse(["recipe.epochs=1|2", "ofa.gamma=1.25|1.35", "recipe.optimizer.lr=0.1"])
    cells = make_plan(["ofa"], PAIR, [0], settings).cells
    assert [(c.label, c.recipe.epochs) for c in cells if c.label not in ("scratch", "kd")] == [
        (f"ofa[gamma={gamma}]", epochs) for epochs in (1, 2) for gamma in (1.25, 1.35)
    ]
    assert [c.recipe.epochs for c in cells if c.label == "kd"] == [1, 2]
    assert {c.recipe.optimizer.lr for c in cells} == {0.1}


def test_a_refusal_is_named_once_for_all_choices():
    plan = make_plan(["pcagl"], PAIR, [0], Settings.parse(["recipe.epochs=1|2"]))
    assert [refusal.label for refusal in plan.refusals] == ["pcagl"]


@pytest.mark.parametrize("text", ["optimizer.betas=[0.8,0.9]", 'augment.auto_augment="a|b"'])
def test_bars_inside_of_brackets_and_quotes_make_no_grid(text):
    assert not Settings.parse([f"recipe.{text}"]).grids


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["recipe.epochs=1", "recipe.epochs=2"], "recipe.epochs is given twice"),
        (["fbt.l2g_heads=1", "tas.l2g_heads=2"], "fbt.l2g_heads is given twice"),
        (["teacher.epochs=1|2"], "share their teacher"),
        (["epochs=1"], "OWNER.KEY=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(items, words):
    with pytest.raises(UsageError, match=words):
        Settings.parse(items)


def test_methods_that_relate_images_refuse_batches_of_one_and_the_others_run():
    settings = Settings.parse(["recipe.local_batch=1"])
    plan = make_plan(["rkd", "rsd", "reviewkd", "dkd"], PAIR, [0], settings)
    assert {refusal.label for refusal in plan.refusals} == {"rkd", "rsd", "reviewkd"}
    assert all("recipe.local_batch is 1" in refusal.reason for refusal in plan.refusals)
    assert [cell.label for cell in plan.cells] == ["scratch", "kd", "dkd"]


def test_methods_that_tell_classes_apart_refuse_data_of_one(monkeypatch):
    facts = replace(dataset_facts("fashion_demo"), num_classes=1)
    monkeypatch.setattr("cakdbench.grid.plan.dataset_facts", lambda *_: facts)
    plan = make_plan(["dkd", "lskd", "crd", "dist"], PAIR, [0], Settings())
    assert {refusal.label for refusal in plan.refusals} == {"dkd", "lskd", "crd"}
    assert [cell.label for cell in plan.cells] == ["scratch", "kd", "dist"]
