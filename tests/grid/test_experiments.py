"""Experiments: every number of the papers' tables has its place, and what runs for it is a valid method on the pair."""

from collections import Counter

import pytest

from cakdbench.build import refusal
from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.grid import experiments
from cakdbench.grid.experiments import TEACHER, experiment_names, load_experiment, tiny_spec
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import pair_info
from cakdbench.grid.suites import resolve_pairs
from cakdbench.models.zoo import model_kind
from cakdbench.published.ledger import ablations, accuracies
from cakdbench.registry import canonical_label, resolve_config, split_variant
from cakdbench.utils.errors import UsageError

NAMES = [
    *(f"fbt_table{n}" for n in (2, 3, 4, 5, 6)),
    *(f"fofa_table{n}" for n in (1, 2, 4, 5, 6)),
    *(f"pcagl_table{n}" for n in (1, 2, 3)),
    "sakd",
    *(f"tas_table{n}" for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12)),
]
TABLES = {name: load_experiment(name) for name in NAMES}
UNLABELLED = {
    **{"AFP stage subset": 6 * 2, "N_q = 80": 2, "cross-view robust training": 3},
}


def test_the_names_are_the_papers_tables():
    assert sorted(experiment_names()) == sorted(NAMES)
    with pytest.raises(UsageError, match="unknown experiment 'tas_table7'.*tas_table"):
        load_experiment("tas_table7")


def test_every_row_of_the_ablations_has_a_label_or_says_why():
    rows = ablations()
    assert len(rows) == 224 and all(bool(row.label) != bool(row.why) for row in rows)
    without = Counter(next(name for name in UNLABELLED if row.setting.startswith(name)) for row in rows if row.why)
    assert without == UNLABELLED


CHAINS = {setting: str(spec.pair) for table in TABLES.values() for setting, spec in table.chains.items()}


@pytest.mark.parametrize(
    ("pair", "label"),
    sorted({(CHAINS.get(r.setting, f"{r.teacher}>{r.student}@{r.dataset}"), r.label) for r in ablations() if r.label}),
)
def test_every_label_is_a_method_with_valid_settings_on_its_pair(pair, label):
    """It is also the name its runs have, so that a printed number and a measured one meet."""
    method, variant = split_variant(label)
    infos = pair_info(Pair.parse(pair), 224)
    dataset = pair.partition("@")[2]
    config = resolve_config(method, variant, *infos, dataset)
    assert refusal(method, *infos, config) is None
    assert canonical_label(method, config, *infos, dataset) == label


@pytest.mark.parametrize("name", NAMES)
def test_every_printed_number_of_a_table_has_its_place(name):
    experiment, file = TABLES[name], TABLES[name].file
    rows = [r for r in (*accuracies(), *ablations()) if (r.source, r.table) == (file.source, file.table)]
    if file.methods:  # FCFD's tables are in both files
        rows = [row for row in rows if row in accuracies()]
    printed = Counter((row.metric, row.value) for row in rows if row.metric != "delta_full")
    assert Counter((spot.metric, spot.value) for spot in experiment.spots) == printed
    assert {spot.entry.id for spot in experiment.spots} == set(experiment.entries)
    assert {spot.pair for spot in experiment.spots} == set(experiment.pairs)
    assert sum(spot.delta is not None for spot in experiment.spots) == sum(r.metric == "delta_full" for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_run_says_why(name):
    for spot in TABLES[name].spots:
        assert spot.runs or spot.why or spot.entry.id == TEACHER
        assert not (spot.why and spot.spec and spot.entry.label)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_keeps_the_kinds_of_models_and_the_methods(name):
    whole, tiny = TABLES[name], load_experiment(name, tiny=True)
    if whole.file.layout == "costs":
        assert tiny == whole and not whole.grids()
        return
    assert tiny.tiny and [spot.value for spot in tiny.spots] == [spot.value for spot in whole.spots]
    for own, small in zip(whole.specs.values(), tiny.specs.values(), strict=True):
        assert model_kind(small.pair.teacher_models[0]) == model_kind(own.pair.teacher_models[0])
        assert model_kind(small.pair.student) == model_kind(own.pair.student)
        assert (small.pair.dataset, small.recipe) == ("fashion_tiny", "tiny")
    labels = [{label for names in table.grids() for label in names} for table in (whole, tiny)]
    assert labels[0] == labels[1]


def test_the_tables_order_is_kept():
    table = TABLES["tas_table5"]
    assert table.pairs == ["vit_s>resnet18@cifar100", "swin_t>resnet18@cifar100"]
    assert [entry.label for entry in table.entries.values()][:3] == ["fbt:split_1_2", "fbt:split_2_3", "fbt:split_4_fc"]
    assert [spot.value for spot in table.spots[:3]] == ["81.5", "82.3", "81.15"]


def plan(tmp_path, name, *settings, **options):
    return Session(run_options("", settings, experiment=name, store=tmp_path, cpu=True, **options)).plan


def test_an_experiment_plans_its_own_cells_and_no_others(tmp_path):
    cells = plan(tmp_path, "tas_table8").cells
    assert [(cell.label, str(cell.pair), cell.recipe.name) for cell in cells] == [
        (method, pair, recipe)
        for pair, recipe in [
            ("swin_t>resnet18@cifar100", "ofa_cifar_cnn"),
            ("vit_s>resnet18@cifar100", "ofa_cifar_cnn"),
            ("convnext_t>swin_p@cifar100", "ofa_cifar_msa"),
        ]
        for method in ("fcfd", "fbt")
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if TABLES[name].file.layout != "costs"])
def test_every_tiny_cell_is_taken_by_its_method(tmp_path, name):
    planned = plan(tmp_path, name, tiny=True)
    assert planned.cells
    assert {refusal.label for refusal in planned.refusals} <= {
        "pcagl"
    }  # it is shown with CNN teachers and MSA students


def test_recipes_of_an_experiment_can_be_changed_and_methods_cannot(tmp_path):
    cells = plan(tmp_path, "tas_table8", "recipe.epochs=1", tiny=True).cells
    assert {cell.recipe.epochs for cell in cells} == {1}
    for options in (
        {"methods": "ofa"},
        {"recipe": "demo"},
        {"settings": ["fbt.gamma=2"]},
        {"settings": ["recipe.epochs=1|2"]},
    ):
        with pytest.raises(UsageError, match="an experiment has its own methods, pairs and recipes"):
            session = Session(run_options(experiment="tas_table8", store=tmp_path, cpu=True, **options))
            session.plan  # noqa: B018


def test_a_model_without_a_stand_in_is_named():
    with pytest.raises(UsageError, match=r"tiny.toml: nothing stands in for resnet_m: add a line"):
        tiny_spec(resolve_pairs("resnet_m>vit_xs@fashion_demo")[0])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"MSA block in L2G: ViT", ', "", ["settings: tas Table 11 has 'MSA block in L2G: ViT' too"]),
        ("L2G: ViT", "L2G: Vit", ["settings: unknown name in tas Table 11", "MSA block in L2G: ViT"]),
        ('"vit_s>resnet18@cifar100", ', "", ["pairs: tas Table 11 has 'vit_s>resnet18@cifar100' too"]),
        ('"tas"', '"taz"', ["source: unknown source 'taz'", "tas"]),
        ('layout = "settings"', 'layout = "wide"', ["layout: must be"]),
        ("title", "titel", ["titel"]),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path, monkeypatch, old, new, words):
    text = (experiments.EXPERIMENTS_DIR / "tas_table11.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    assert old in text
    monkeypatch.setattr(experiments, "EXPERIMENTS_DIR", tmp_path)
    load_experiment.cache_clear()
    with pytest.raises(UsageError, match="mine.toml") as raised:
        load_experiment("mine")
    load_experiment.cache_clear()
    assert all(word in str(raised.value) for word in words), str(raised.value)
