"""Pairs that name runs and several teachers: how they are read, and the plan that makes the runs first."""

import pytest

from cakdbench.grid.pairs import Pair, named_run
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import check_start, resolve_pairs, suites_from_file
from cakdbench.utils.errors import UsageError

CHAIN = "run:kd:run:fbt:no_infonce:resnet_m>vit_xs@fashion_demo>mobilenet_s@fashion_demo>resnet_s@fashion_demo"


@pytest.mark.parametrize(
    ("text", "teachers", "models"),
    [
        ("swin_t+convnext_t>resnet18@cifar100", ("swin_t", "convnext_t"), ("swin_t", "convnext_t")),
        (CHAIN, (CHAIN.rpartition(">")[0],), ("mobilenet_s",)),
        (
            "run:scratch:resnet34@cifar100 + swin_t>resnet18@cifar100",
            ("run:scratch:resnet34@cifar100", "swin_t"),
            ("resnet34", "swin_t"),
        ),
        (
            "run:kd:swin_t+vit_s>resnet34@cifar100+swin_t>resnet18@cifar100",
            ("run:kd:swin_t+vit_s>resnet34@cifar100", "swin_t"),
            ("resnet34", "swin_t"),
        ),
        (
            "run:kd:resnet50:tv>timm:resnet26@imagenet1k>resnet18@imagenet1k",
            ("run:kd:resnet50:tv>timm:resnet26@imagenet1k",),
            ("timm:resnet26",),
        ),
        (
            "run:kd:swin_t+vit_s+convnext_t>resnet34@cifar100>resnet18@cifar100",
            ("run:kd:swin_t+vit_s+convnext_t>resnet34@cifar100",),
            ("resnet34",),
        ),
        (
            "run:kd:swin_t+run:kd:vit_s+swin_t>resnet34@cifar100+vit_s>resnet34@cifar100+swin_t>resnet18@cifar100",
            ("run:kd:swin_t+run:kd:vit_s+swin_t>resnet34@cifar100+vit_s>resnet34@cifar100", "swin_t"),
            ("resnet34", "swin_t"),
        ),
    ],
)
def test_a_pair_names_its_teachers(text, teachers, models):
    pair = Pair.parse(text)
    assert (pair.teachers, pair.teacher_models) == (teachers, models)
    assert Pair.parse(str(pair)) == pair


@pytest.mark.parametrize(
    ("name", "label", "pair"),
    [
        ("run:fbt:no_ts[feature_weight=0.0]:swin_t>resnet18@cifar100", "fbt:no_ts[feature_weight=0.0]", None),
        ("run:ofa[stages=[1,2]]:swin_t>resnet18@cifar100", "ofa:stages_12", None),
        ("run:scratch:resnet18@cifar100", "scratch", "resnet18>resnet18@cifar100"),
    ],
)
def test_a_run_is_named_by_label_and_pair(name, label, pair):
    assert named_run(name) == (label, Pair.parse(pair or "swin_t>resnet18@cifar100"))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("run:kd[temperature=1.0]:swin_t>resnet34@cifar100", "run:kd:swin_t>resnet34@cifar100"),
        ("run:kd:swin_t > resnet34 @cifar100", "run:kd:swin_t>resnet34@cifar100"),
        ("run:tas:no_infonce:swin_t>resnet34@cifar100", "run:fbt:no_infonce:swin_t>resnet34@cifar100"),
        ("run:fofa:n_q_64:swin_t>resnet34@cifar100", "run:fofa:swin_t>resnet34@cifar100"),
        ("run:scratch: resnet34@cifar100", "run:scratch:resnet34@cifar100"),
        ("run:tas:run:kd-resnet_s-s0-01>resnet34@cifar100", "run:fbt:run:kd-resnet_s-s0-01>resnet34@cifar100"),
        (
            "run:kd:run:tas:swin_t>resnet34@cifar100>resnet18@cifar100",
            "run:kd:run:fbt:swin_t>resnet34@cifar100>resnet18@cifar100",
        ),
    ],
)
def test_a_run_has_one_name_however_it_is_written(written, canonical):
    pair = Pair.parse(f"{written}>resnet18@cifar100")
    assert pair.teacher == canonical and Pair.parse(str(pair)) == pair
    assert check_start(Pair.parse(f"swin_t>{pair.teacher_models[0]}@cifar100"), written) == canonical


def test_a_run_of_the_whole_data_teaches_where_images_are_held_out():
    pair = Pair.parse("run:kd:resnet_m>vit_xs@fashion_tiny>resnet_s@fashion_tiny:holdout")
    assert pair.dataset == "fashion_tiny:holdout" and pair.teacher_models == ("vit_xs",)
    with pytest.raises(UsageError, match="learns fashion_tiny:holdout, and the student fashion_tiny"):
        Pair.parse("run:kd:resnet_m>vit_xs@fashion_tiny:holdout>resnet_s@fashion_tiny")


def test_a_recipe_that_is_given_holds_for_the_links_also_where_it_is_the_pairs_own():
    chain = "run:kd:swin_t>vit_s@cifar100>resnet18@cifar100"
    own = resolve_pairs(chain)[0].recipe

    def link(recipe):
        plan = make_plan(["kd"], resolve_pairs(chain, recipe), (0,), Settings())
        return next(cell.recipe.name for cell in plan.cells if cell.pair.student == "vit_s")

    assert link(None) != own == link(own)


def test_a_key_and_a_model_name_no_pair():
    assert named_run("run:kd-resnet_s-fashion_demo-s0-0123456789abcdef") is None and named_run("swin_t") is None
    with pytest.raises(UsageError, match="run:kd-vit: a store knows which model this is"):
        make_plan([], resolve_pairs("run:kd-vit>resnet_s@fashion_demo"), (0,), Settings())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run:kx:swin_t>resnet34@cifar100>resnet18@cifar100", "unknown method 'kx'; did you mean kd"),
        ("run:fbt:no_x:swin_t>resnet34@cifar100>resnet18@cifar100", "unknown model 'no_x:swin_t'|unknown model 'no_x'"),
        ("run:kd:resnet34@cifar100>resnet18@cifar100", "'resnet34@cifar100' is no pair"),
        ("run:kd:swin_t>resnet34@imagenet1k>resnet18@cifar100", "learns imagenet1k, and the student cifar100"),
        ("swin_t+swin_x>resnet18@cifar100", "unknown model 'swin_x'"),
        ("+swin_t>resnet18@cifar100", "unknown model ''"),
        (10 * "run:kd:" + "swin_t" + 11 * ">resnet18@cifar100", "a chain of more than 9 runs"),
    ],
)
def test_what_is_no_teacher_is_said_in_a_line(text, words):
    with pytest.raises(UsageError, match=words):
        Pair.parse(text)


def cells(pairs, *settings, methods=("kd",), seeds=(0,)):
    plan = make_plan(methods, resolve_pairs(pairs), seeds, Settings.parse(settings))
    assert not plan.refusals
    return plan.cells


def test_a_chain_is_planned_from_its_beginning():
    planned = cells(CHAIN, "recipe.epochs=2", seeds=(0, 1))
    assert [(cell.label, cell.pair.student, cell.seed, cell.wave) for cell in planned if cell.label != "scratch"] == [
        *(("fbt:no_infonce", "vit_xs", seed, 0) for seed in (0, 1)),
        *(("kd", "mobilenet_s", seed, 1) for seed in (0, 1)),
        *(("kd", "resnet_s", seed, 2) for seed in (0, 1)),
    ]
    assert {cell.recipe.epochs for cell in planned} == {2}
    for cell in planned:
        assert all(link.seed == cell.seed for _, link in cell.links)


def test_a_run_that_is_in_the_plan_anyway_is_not_planned_twice():
    planned = cells("resnet_m>vit_xs@fashion_demo,run:kd:resnet_m>vit_xs@fashion_demo>resnet_s@fashion_demo")
    assert len([cell for cell in planned if (cell.label, cell.pair.student) == ("kd", "vit_xs")]) == 1


def test_each_link_has_the_recipe_of_its_own_pair_unless_one_is_given():
    pairs = "run:kd:convnext_t>swin_p@cifar100>resnet18@cifar100"
    of = {cell.pair.student: cell.recipe.name for cell in cells(pairs)}
    assert of == {"swin_p": "ofa_cifar_msa", "resnet18": "ofa_cifar_cnn"}
    given = make_plan(["kd"], resolve_pairs(pairs, "fbt_cifar_msa"), (0,), Settings()).cells
    assert {cell.recipe.name for cell in given} == {"fbt_cifar_msa"}


def test_the_start_of_a_command_is_not_that_of_its_links():
    planned = cells("run:kd:resnet_m>vit_xs@fashion_demo>resnet_s@fashion_demo", "recipe.init=hub")
    assert {(cell.pair.student, cell.recipe.init) for cell in planned} == {("vit_xs", "random"), ("resnet_s", "hub")}


def test_a_link_that_is_refused_refuses_what_learns_from_it():
    chain = "run:fitnet:resnet_m+swin_m>vit_xs@fashion_demo"
    plan = make_plan(["kd"], resolve_pairs(f"{chain}>resnet_s@fashion_demo"), (0,), Settings())
    assert [cell.label for cell in plan.cells] == ["scratch"]
    assert [str(refusal.reason) for refusal in plan.refusals] == [
        f"{chain}: fitnet learns from one teacher, and resnet_m+swin_m are 2"
    ]


SUITE = """
board = "mine"
[suites.mine]
title = "mine"
recipe = "demo"
pairs = [{{ pair = "resnet_m>resnet_s@fashion_demo", init = "{}" }}]
"""


def suite(folder, init):
    path = folder / "mine.toml"
    path.write_text(SUITE.format(init))
    return suites_from_file(path)["mine"].specs


def test_a_student_starts_from_a_run_that_comes_first(tmp_path):
    first, *others = make_plan([], suite(tmp_path, "run:ofa:swin_m>resnet_s@fashion_demo"), (0,), Settings()).cells
    assert (first.label, first.recipe.init, first.wave) == ("ofa", "random", 0)
    assert {(cell.label, cell.wave) for cell in others} == {("scratch", 1), ("kd", 1)}
    assert {cell.recipe.init for cell in others} == {"run:ofa:swin_m>resnet_s@fashion_demo"}


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("run:ofa:swin_m>vit_xs@fashion_demo", "the student resnet_s cannot start from run:ofa.*: that is a vit_xs"),
        ("hub", "init: 'hub' is no run of a pair"),
    ],
)
def test_a_start_that_does_not_fit_is_named_with_its_row(tmp_path, init, words):
    with pytest.raises(UsageError, match=rf"mine.toml.*pairs\[1\].*{words}"):
        suite(tmp_path, init)
