"""Suites and pairs: which pairs they hold, what `--pairs` understands, and what is said of wrong files."""

import pytest

from cakdbench.grid.pairs import Pair
from cakdbench.grid.suites import PairSpec, resolve_pairs, suites, suites_from_file
from cakdbench.grid.teachers import load_teachers
from cakdbench.models.zoo import MODELS, model_kind
from cakdbench.recipes import load_recipe
from cakdbench.utils.errors import UsageError

SIZES = {
    "cifar_all": 12, "cifar_cnn": 6, "cifar_msa": 4, "cifar_mlp": 2,
    "imagenet_all": 14, "imagenet_cnn": 6, "imagenet_msa": 6, "imagenet_mlp": 2, "imagenet_fofa": 4,
    "sakd": 2, "pcagl_cifar": 16, "pcagl_imagenet": 33, "demo": 3, "demo_all": 9,
}  # fmt: skip
TABLES = {
    "cifar_all": (
        "swin_t>resnet18 vit_s>resnet18 mixer_b16>resnet18 swin_t>mobilenetv2 "
        "vit_s>mobilenetv2 mixer_b16>mobilenetv2 convnext_t>deit_t mixer_b16>deit_t convnext_t>swin_p "
        "mixer_b16>swin_p convnext_t>resmlp_s12 swin_t>resmlp_s12"
    ),
    "imagenet_all": (
        "deit_t>resnet18 swin_t>resnet18 mixer_b16>resnet18 deit_t>mobilenetv2 "
        "swin_t>mobilenetv2 mixer_b16>mobilenetv2 resnet50>deit_t convnext_t>deit_t mixer_b16>deit_t "
        "resnet50>swin_n convnext_t>swin_n mixer_b16>swin_n convnext_t>resmlp_s12 swin_t>resmlp_s12"
    ),
    "imagenet_fofa": "swin_t>resnet18 mixer_b16>mobilenetv2 convnext_t>deit_t swin_t>resmlp_s12",
    "sakd": "resnet34>resnet18 resnet50:tv>mobilenetv1",
}


def pairs(name: str) -> list[str]:
    return [str(spec.pair) for spec in suites()[name].specs]


def written(folder, text) -> str:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path)


def test_the_suites_and_their_sizes():
    assert {name: len(suite.specs) for name, suite in suites().items()} == SIZES
    assert all(len(set(suite.specs)) == len(suite.specs) for suite in suites().values())


@pytest.mark.parametrize("name", TABLES)
def test_suites_have_the_pairs_of_the_tables_in_their_order(name):
    assert [pair.partition("@")[0] for pair in pairs(name)] == TABLES[name].split()


@pytest.mark.parametrize("board", ["cifar", "imagenet"])
def test_groups_partition_the_whole_by_the_students_kind(board):
    groups = {kind: pairs(f"{board}_{kind}") for kind in ("cnn", "msa", "mlp")}
    assert pairs(f"{board}_all") == [pair for group in groups.values() for pair in group]
    assert suites()[f"{board}_all"].groups == tuple(f"{board}_{kind}" for kind in groups)
    for kind, group in groups.items():
        assert {model_kind(Pair.parse(pair).student) for pair in group} == {kind}


def test_the_demo_goes_in_three_directions_and_demo_all_in_every():
    def directions(name):
        return [(model_kind(pair.teacher), model_kind(pair.student)) for pair in map(Pair.parse, pairs(name))]

    assert directions("demo") == [("cnn", "msa"), ("msa", "cnn"), ("cnn", "mlp")]
    kinds = ("cnn", "msa", "mlp")
    assert sorted(directions("demo_all")) == sorted((a, b) for a in kinds for b in kinds)


def test_boards():
    boards = {name: suite.board for name, suite in suites().items()}
    for prefix, board in {
        "cifar_": "cifar100",
        "imagenet_": "imagenet1k",
        "demo": "demo",
        "sakd": "sakd",
        "pcagl_": "pcagl",
    }.items():
        assert {boards[name] for name in boards if name.startswith(prefix)} == {board}


def test_boards_of_published_pairs_know_the_protocol_of_the_printed_numbers():
    found = {suite.board: suite.protocol for suite in suites().values()}
    assert found == {"cifar100": "ofa", "imagenet1k": "ofa", "sakd": "sakd-imagenet", "pcagl": "pcagl", "demo": None}
    assert {suite.board_title for suite in suites().values() if suite.board == "pcagl"} == {
        "The pairs of PCA/GL, CIFAR-100 and ImageNet-1K"
    }


def test_a_pair_has_one_recipe_wherever_it_stands():
    recipes = {}
    for suite in suites().values():
        for spec in suite.specs:
            assert recipes.setdefault(spec.pair, spec.recipe) == spec.recipe


def test_every_pair_has_a_teacher_and_a_recipe_of_its_size():
    teachers = load_teachers()
    for suite in suites().values():
        for spec in suite.specs:
            assert (spec.pair.teacher, spec.pair.dataset) in teachers, spec.pair
            assert load_recipe(spec.recipe).image_size == MODELS[spec.pair.student].image_size


@pytest.mark.parametrize(
    "text",
    [
        "swin_t>resnet18@cifar100",
        "resnet50:tv>mobilenetv1@imagenet1k",
        "timm:convnext_nano>timm:vit_tiny_patch16_224@cifar100",
        "timm:convnext_tiny.fb_in1k>resnet18@timm:torch/qmnist",
        "swin_t>timm:resnet10t@timm:hfds/some/where",
    ],
)
def test_a_pair_reads_what_it_writes(text):
    assert str(Pair.parse(text)) == text
    assert Pair.parse(text.replace(">", " > ").replace("@", " @ ")) == Pair.parse(text)


def test_a_teachers_model_is_its_name_without_the_weights():
    assert Pair.parse("resnet50:tv>resnet18@imagenet1k").teacher_models == ("resnet50",)
    assert Pair.parse("timm:resnet10t>resnet18@imagenet1k").teacher_models == ("timm:resnet10t",)
    assert Pair.parse("swin_t>resnet18@imagenet1k").teacher_models == ("swin_t",)


def test_suites_groups_pairs_and_free_names_in_one_list():
    free = "timm:convnext_nano>timm:vit_tiny_patch16_224@cifar100"
    specs = resolve_pairs(f"cifar_mlp, {free},swin_t>swin_p@cifar100 ,sakd")
    assert [(str(spec.pair), spec.recipe) for spec in specs] == [
        ("convnext_t>resmlp_s12@cifar100", "ofa_cifar_msa"),
        ("swin_t>resmlp_s12@cifar100", "ofa_cifar_msa"),
        (free, "ofa_cifar_msa"),
        ("swin_t>swin_p@cifar100", "ofa_cifar_msa"),
        ("resnet34>resnet18@imagenet1k", "ofa_imagenet_cnn"),
        ("resnet50:tv>mobilenetv1@imagenet1k", "ofa_imagenet_cnn"),
    ]


@pytest.mark.parametrize(
    ("pair", "recipe"),
    [
        ("vit_b16>resnet50@cifar100", "pcagl_cifar"),
        ("swin_t>resnet50@cifar100", "ofa_cifar_cnn"),
        ("swin_t>timm:resnet10t@imagenet1k", "ofa_imagenet_cnn"),
        ("swin_t>timm:mixer_s32_224@cifar100", "ofa_cifar_msa"),
        ("convnext_m>vit_m@fashion_demo", "demo"),
    ],
)
def test_a_single_pair_takes_its_suites_recipe_or_the_default(pair, recipe):
    assert resolve_pairs(pair) == [PairSpec(Pair.parse(pair), recipe)]


def test_what_is_named_twice_comes_once_in_the_first_place():
    specs = resolve_pairs("swin_t>mobilenetv2@cifar100,cifar_all,cifar_cnn")
    assert len(specs) == 12 and str(specs[0].pair) == "swin_t>mobilenetv2@cifar100"
    assert [str(spec.pair) for spec in specs[1:]] == [p for p in pairs("cifar_all") if p != str(specs[0].pair)]


def test_a_named_recipe_replaces_all_others(tmp_path):
    specs = resolve_pairs("cifar_all,convnext_t>resnet18@fashion_mnist", recipe="demo")
    assert len(specs) == 13 and {spec.recipe for spec in specs} == {"demo"}
    own = written(tmp_path, 'extends = "demo"\ntitle = "Mine"\nsource = "me"\n')
    (spec,) = resolve_pairs("convnext_t>resnet18@fashion_mnist", recipe=own)
    assert load_recipe(spec.recipe).name == "own"


OWN = """
board = "mine"
[suites.a]
title = "A"
recipe = "demo"
pairs = ["resnet_m>vit_xs@fashion_demo", { pair = "swin_m>vit_xs@fashion_demo", recipe = "slow.toml" }]
[suites.b]
title = "B"
recipe = "demo"
groups = ["a"]
pairs = ["vit_m>vit_xs@fashion_demo"]
"""


def test_a_suite_file_of_ones_own(tmp_path):
    (tmp_path / "slow.toml").write_text('extends = "demo"\ntitle = "Slow"\nsource = "me"\nepochs = 80\n')
    path = written(tmp_path, OWN)
    found = suites_from_file(tmp_path / "own.toml")
    assert [len(found[name].specs) for name in "ab"] == [2, 3]
    assert {suite.board for suite in found.values()} == {"mine"}
    specs = resolve_pairs(f"{path},demo")
    assert [load_recipe(spec.recipe).epochs == 80 for spec in specs] == [False, True, False, False, False]
    assert not set(found) & set(suites())


SUITE = 'board = "mine"\n[suites.a]\ntitle = "A"\nrecipe = "demo"\npairs = ["resnet_m>vit_xs@fashion_demo"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[suites", ["not valid TOML"]),
        (SUITE.replace("board", "bord"), ["'bord'", "board: missing"]),
        (SUITE.replace("recipe =", "recpe ="), ["'suites.a.recpe'", "suites.a.recipe"]),
        (SUITE.replace('title = "A"', "title = 3"), ["suites.a.title", "must be text"]),
        (
            SUITE.replace("resnet_m", "resnet_mm"),
            ["suites.a.pairs[1]", "unknown model 'resnet_mm'", "resnet_m"],
        ),
        (SUITE.replace("vit_xs", "timm:vit_tyni_patch16_224"), ["suites.a.pairs[1]", "vit_tiny_patch16_224"]),
        (
            SUITE.replace("@fashion_demo", "@fashion_demmo"),
            ["suites.a.pairs[1]", "'fashion_demmo'", "fashion_demo"],
        ),
        (SUITE.replace("@fashion_demo", ""), ["suites.a.pairs[1]", "TEACHER>STUDENT@DATASET"]),
        (SUITE.replace('"demo"', '"demoo"'), ["suites.a.pairs[1]", "unknown recipe 'demoo'", "demo"]),
        (SUITE.replace('"demo"', '"gone.toml"'), ["suites.a.pairs[1]", "no file at", "gone.toml"]),
        (SUITE.replace('recipe = "demo"\n', ""), ["suites.a.pairs[1]", "recipe: missing"]),
        (SUITE.replace('["res', '[3, "res'), ["suites.a.pairs[1]"]),
        (SUITE + 'groups = ["b"]\n', ["suites.a.groups", "'b'"]),
        ('board = "mine"\n[suites.a]\ntitle = "A"\n', ["suites.a", "neither pairs nor groups"]),
        ('board = "mine"\n', ["suites: missing"]),
        (
            SUITE.replace(
                '"resnet_m>vit_xs@fashion_demo"',
                '{ pair = "resnet_m>vit_xs@fashion_demo", recipes = "demo" }',
            ),
            ["suites.a.pairs[1].recipes", "suites.a.pairs.recipe"],
        ),
    ],
)
def test_a_wrong_suite_file_is_named_with_its_key(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        resolve_pairs(path)
    assert all(word in str(error.value) for word in [*words, path]), error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cifar_al", ["'cifar_al'", "cifar_all"]),
        ("swin_tt>resnet18@cifar100", ["'swin_tt'", "swin_t"]),
        ("swin_t>resnet8@cifar100", ["'resnet8'", "resnet18"]),
        ("swin_t>resnet18:tv@cifar100", ["'resnet18:tv'", "resnet18"]),
        ("swin_t>resnet18@cifar1000", ["'cifar1000'", "cifar100"]),
        ("swin_t>resnet18", ["no pair", "TEACHER>STUDENT@DATASET"]),
        (">resnet18@cifar100", ["no pair"]),
        ("timm:resnet1000>resnet18@cifar100", ["'resnet1000'", "resnet"]),
        ("swin_t>resnet18@fashion_mnist", ["no default recipe", "--recipe"]),
        (" , ", ["no pairs named", "cifar_all"]),
        ("gone.toml", ["no file at gone.toml"]),
    ],
)
def test_a_wrong_name_is_named_with_the_nearest(text, words):
    with pytest.raises(UsageError) as error:
        resolve_pairs(text)
    assert all(word in str(error.value) for word in words), error.value


def test_an_unknown_recipe_for_all():
    with pytest.raises(UsageError, match="unknown recipe 'demoo'; did you mean demo"):
        resolve_pairs("demo", recipe="demoo")
