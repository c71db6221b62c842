"""Names of methods, variants and grids on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakdbench import labels
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.utils.errors import UsageError

word = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    "names, expected",
    [
        ("kd, ofa", ["kd", "ofa"]),
        ("ofa[gamma=1.0|1.5]", ["ofa[gamma=1.0]", "ofa[gamma=1.5]"]),
        (
            "fbt:mse[tau=0.1|0.2, l2g_heads=6],kd",
            ["fbt:mse[tau=0.1,l2g_heads=6]", "fbt:mse[tau=0.2,l2g_heads=6]", "kd"],
        ),
        (
            "a[x=1|2,y=u|v]",
            ["a[x=1,y=u]", "a[x=1,y=v]", "a[x=2,y=u]", "a[x=2,y=v]"],
        ),
        ("ofa[stages=[1, 2]|[3]]", ["ofa[stages=[1, 2]]", "ofa[stages=[3]]"]),
        ("", []),
    ],
)
def test_a_list_of_names_becomes_labels(names, expected):
    assert labels.expand(names) == expected


@pytest.mark.parametrize("name", ["ofa[gamma]", "ofa[=1]", "ofa[gamma=1.0", "ofa[gamma=1.0]x", "ofa[]", "ofa[a=1,a=2]"])
def test_a_broken_grid_is_an_error_that_shows_the_form(name):
    with pytest.raises(UsageError, match=r"ofa\[gamma=1.0\|1.5\]"):
        labels.expand(name)


@given(word, st.none() | word, st.dictionaries(word, st.integers(-9, 9), max_size=3))
def test_a_label_splits_into_what_it_was_made_of(id, variant, values):
    bracket = "[" + ",".join(f"{key}={value}" for key, value in values.items()) + "]" if values else ""
    whole = (variant or "") + bracket or None
    name = labels.label(id, whole)
    assert labels.split(name) == (id, whole)
    assert labels.changes(whole or "") == values
    assert labels.expand(name) == [name]


def cells(methods):
    specs = resolve_pairs("resnet_m>vit_xs@fashion_demo", "demo")
    return {cell.label: cell for cell in make_plan(labels.expand(methods), specs, [0], Settings()).cells}


def test_each_point_of_a_grid_is_a_cell_with_its_numbers():
    found = cells("ofa[gamma=1.0|1.5],tas:mse[l2g_window=4]")
    assert list(found) == ["scratch", "kd", "ofa", "ofa:gamma_1_5", "fbt:mse[l2g_window=4]"]
    assert found["ofa:gamma_1_5"].config.gamma == 1.5
    config = found["fbt:mse[l2g_window=4]"].config
    assert (config.feature_loss, config.l2g_window) == ("mse", 4)


def test_a_number_in_the_grid_and_in_set_is_refused():
    specs = resolve_pairs("resnet_m>vit_xs@fashion_demo", "demo")
    with pytest.raises(UsageError, match="give the number once"):
        make_plan(["ofa[gamma=1.0]"], specs, [0], Settings.parse(["ofa.gamma=1.2"]))


@pytest.mark.parametrize(
    "methods, words",
    [("ofa[gama=1.0]", "gama"), ("ofa[gamma=-1]", "above 0"), ("ofa:nope[gamma=1.0]", "nope"), ("ofo[gamma=1]", "ofo")],
)
def test_a_wrong_name_in_a_grid_is_named(methods, words):
    with pytest.raises(UsageError, match=words):
        cells(methods)
