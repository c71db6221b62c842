"""`--set`: numbers by name, grids of them, and what is refused."""

import pytest

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
