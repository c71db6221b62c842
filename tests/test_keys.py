"""Keys outlive the code: what changes a run's key, what leaves it as it is, and how records of format 1 get theirs."""

import dataclasses
import importlib.util
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest

from cakdbench import registry
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs, suites
from cakdbench.recipes import Augment, Recipe, all_numbers, load_recipe, recipe_names, schema
from cakdbench.records import TeacherIdentity
from cakdbench.registry import all_settings, config_identity, get_method, load_file, method_ids
from cakdbench.source_hash import known_sources, method_identity, source_hash
from cakdbench.store import canonical, run_key
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import validate
from cakdbench.utils.neutral import Neutral, fill_neutral, strip_neutral
from cakdbench.utils.toml import Table

ROOT = Path(__file__).parents[1]
KEYS = ROOT / "tests/golden/keys.json"
DATASET = SimpleNamespace(name="fashion_demo", fingerprint="f" * 64, skipped=None)
PAIR = "resnet_m>vit_xs@fashion_demo"
METHOD = (ROOT / "methods/kd.py").read_text()


def identity_of(cell):
    teacher = TeacherIdentity(model=cell.pair.teacher, sha256="a" * 64) if cell.needs_teacher else None
    return cell.identity(SimpleNamespace(name=cell.pair.dataset, fingerprint="f" * 64, skipped=None), teacher)


def keys_of(methods, pairs=PAIR, recipe=None, settings=()):
    """Labels and keys of a plan with one seed; the baselines left out unless named."""
    names = [name.strip() for name in methods.split(";")]
    plan = make_plan(names, resolve_pairs(pairs, recipe), [0], Settings.parse(settings))
    named = {name.partition("[")[0].partition(":")[0] for name in names}
    return {cell.label: run_key(identity_of(cell)) for cell in plan.cells if cell.method.id in named}


def shipped_keys():
    """The digest of every shipped method and variant under every recipe of the suites, on the recipe's first pair."""
    first: dict[str, PairSpec] = {}
    for suite in suites().values():
        for spec in suite.specs:
            first.setdefault(spec.recipe, spec)
    labels = [f"{id}:{variant}" for id in method_ids() for variant in get_method(id).variants]
    built_in = [id for id in method_ids() if registry.get_method(id).__module__.startswith("cakdbench.methods.")]
    table = {}
    for recipe, spec in sorted(first.items()):
        cells = make_plan([*built_in, *labels], [spec], [0], Settings()).cells
        table[recipe] = {cell.label: run_key(identity_of(cell)).rpartition("-")[2] for cell in cells}
    return table


def test_the_keys_of_shipped_recipes_and_methods_are_those_committed():
    """A change here voids results: make it only on purpose (`python -m tests.test_keys` writes the file anew)."""
    told = "a new setting that is off needs a neutral value (CONTRIBUTING, Keys); other changes of keys void results"
    assert shipped_keys() == json.loads(KEYS.read_text()), told


@pytest.mark.parametrize("spelling", ["ofa[gamma=1]", "ofa[gamma=1.0]", "ofa[gamma=1.00]", "ofa:gamma_1_0", "tas;ofa"])
def test_one_config_has_one_key_and_one_label(spelling):
    assert keys_of(spelling).items() >= keys_of("ofa").items()


def test_one_config_is_one_cell():
    plan = make_plan(["ofa", "ofa[gamma=1]", "ofa:gamma_1_0"], resolve_pairs(PAIR), [0, 1], Settings())
    assert [cell.label for cell in plan.cells if cell.method.id == "ofa"] == ["ofa", "ofa"]


def test_settings_of_the_command_line_and_brackets_are_the_same_run():
    assert keys_of("ofa", settings=["ofa.gamma=1.25"]) == keys_of("ofa[gamma=1.25]")
    assert list(keys_of("fbt[feature_loss=mse,l2g_window=4]")) == ["fbt:mse[l2g_window=4]"]


def test_corruptions_that_mean_the_same_have_one_key_and_none_has_that_of_before():
    setting = "recipe.evaluation.corruptions="
    keys = keys_of("kd", settings=[setting + "gaussian_noise:1,shot_noise=30"])
    for names in ("shot_noise=30,gaussian_noise=0.08", "shot_noise=30.0,gaussian_noise:1,gaussian_noise=8e-2"):
        assert keys_of("kd", settings=[setting + names]) == keys
    assert keys_of("kd", settings=[setting + "none"]) == keys_of("kd") != keys


def test_negative_zero_is_zero():
    plain = keys_of("kd[weight=0.0]")
    assert list(keys_of("kd[weight=-0.0]").values()) == list(plain.values())


ON = ("recipe.epochs=7", "recipe.augment.mixup=0.1", "recipe.ema_decay=0.9", "recipe.evaluation.corruptions=shot_noise")


@pytest.mark.parametrize("changed", ON)
def test_a_setting_that_is_on_changes_the_key(changed):
    assert keys_of("kd", settings=[changed]) != keys_of("kd")


def test_a_recipe_setting_that_is_off_changes_no_key(monkeypatch):
    class MoreAugment(Augment):
        blur: Annotated[float, Neutral(0.0)] = 0.0

    class MoreRecipe(Recipe):
        augment: MoreAugment
        freeze_epochs: Annotated[int, Neutral(0)] = 0

    before = {name: load_recipe(name).identity() for name in recipe_names()}
    tables = {name: load_recipe(name).model_dump() for name in recipe_names()}
    monkeypatch.setattr(schema, "Recipe", MoreRecipe)
    assert {name: MoreRecipe(**table).identity() for name, table in tables.items()} == before
    assert all_numbers(before["demo"]) == MoreRecipe(**tables["demo"]).numbers()
    on = tables["demo"] | {"freeze_epochs": 2}
    assert MoreRecipe(**on).identity() == before["demo"] | {"freeze_epochs": 2}


def test_a_new_table_that_is_off_changes_no_key(monkeypatch):
    class Distort(Table):
        strength: Annotated[float, Neutral(0.0)] = 0.0
        kind: Annotated[str, Neutral("none")] = "none"

    class More(Recipe):
        distort: Distort = Distort()
        freeze: Annotated[Distort | None, Neutral(None)] = None

    before, table = load_recipe("demo").identity(), load_recipe("demo").model_dump()
    monkeypatch.setattr(schema, "Recipe", More)
    assert More(**table).identity() == before
    assert all_numbers(before) == More(**table).numbers()
    on = More(**table | {"distort": {"strength": 0.5}, "freeze": {"kind": "stem"}})
    assert on.identity() == before | {"distort": {"strength": 0.5}, "freeze": {"kind": "stem"}}
    assert all_numbers(on.identity()) == on.numbers()


def test_zero_has_one_name():
    plan = make_plan(["kd[weight=-0.0]", "kd[weight=0]"], resolve_pairs(PAIR), [0], Settings())
    assert [cell.label for cell in plan.cells if cell.method.id == "kd"] == ["kd", "kd[weight=0.0]"]


def test_a_neutral_value_stays_when_the_default_changes(monkeypatch):
    class Later(Recipe):
        ema_decay: Annotated[float | None, Neutral(None)] = 0.999

    old = load_recipe("demo").identity()
    monkeypatch.setattr(schema, "Recipe", Later)
    assert all_numbers(old)["ema_decay"] is None
    table = load_recipe("demo").model_dump()
    table.pop("ema_decay")
    assert Later(**table).identity()["ema_decay"] == 0.999


def test_a_method_setting_that_is_off_changes_no_key(monkeypatch):
    method = get_method("kd")
    before = method_identity(method, method.Config())

    @dataclass(frozen=True)
    class Config(method.Config):
        warmup: float = field(default=0.0, metadata={"neutral": 0.0})

    monkeypatch.setattr(method, "Config", Config)
    assert method_identity(method, Config()) == before
    assert method_identity(method, Config(warmup=2.0)) != before
    assert all_settings(method, before.config) == dataclasses.asdict(Config())


def test_a_method_setting_without_a_neutral_value_stands_in_every_key():
    for id in method_ids():
        method = get_method(id)
        config = config_identity(method.Config())
        free = {entry.name for entry in dataclasses.fields(method.Config) if "neutral" not in entry.metadata}
        assert free <= config.keys()
        assert all_settings(method, config) == json.loads(json.dumps(dataclasses.asdict(method.Config())))


def test_what_is_stripped_comes_back():
    @dataclass(frozen=True)
    class Config:
        sizes: tuple[int, ...] = field(default=(1, 2), metadata={"neutral": (3, 4)})

    assert strip_neutral(Config, {"sizes": [3, 4], "other": 1}) == {"other": 1}
    assert strip_neutral(Config, {"sizes": [1, 2]}) == {"sizes": [1, 2]}
    assert fill_neutral(Config, {"other": 1}) == {"sizes": [3, 4], "other": 1}


@pytest.fixture
def rewritten_kd(tmp_path, monkeypatch):
    """Load KD's file with other text in the place of the built-in one."""

    def load(text):
        path = tmp_path / "kd.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("cakdbench.methods.kd", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        monkeypatch.delitem(registry._methods, "kd")
        spec.loader.exec_module(module)
        return get_method("kd")

    return load


RENAMED = re.sub(r"\bkd_loss\b", "softened_kl", METHOD)
TOLD = METHOD.replace('"""', '"""In other words. ', 1)
ODD = {"a renamed function": RENAMED, "another docstring": TOLD}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_words_of_a_method_change_no_key(text, rewritten_kd):
    before = keys_of("kd;kd:t4" if "t4" in get_method("kd").variants else "kd")
    source = source_hash(get_method("kd"))
    method = rewritten_kd(text)
    assert method.__module__ == "cakdbench.methods.kd" and text != METHOD
    assert (source_hash(method) == source) is (text == TOLD)
    assert keys_of("kd").items() <= before.items()


def test_words_of_a_method_leave_validate_as_it_is(rewritten_kd):
    rewritten_kd(RENAMED)
    report = validate(ROOT / "leaderboards/results/kd", Truth(ROOT / "leaderboards/labels"))
    assert [str(finding) for finding in report.findings] == []
    assert len(report.lines) == 9


def test_a_raised_version_changes_the_key(monkeypatch):
    before = keys_of("kd")
    monkeypatch.setattr(get_method("kd"), "version", 2)
    assert keys_of("kd") != before


def test_a_method_of_a_file_is_known_by_its_code_and_not_by_a_version(tmp_path):
    text = METHOD.replace('"kd"', '"mine"', 1).replace("aliases", "aliases").replace('"mine",', '"mine", version=3,', 1)
    (tmp_path / "mine.py").write_text(text)
    load_file(tmp_path / "mine.py")
    identity = method_identity(get_method("mine"), get_method("mine").Config())
    assert identity.version is None and identity.source == source_hash(get_method("mine"))


def test_what_is_none_is_no_part_of_the_key():
    (cell,) = [c for c in make_plan([], resolve_pairs(PAIR), [0], Settings()).cells if c.label == "scratch"]
    assert json.loads(canonical(identity_of(cell))).keys().isdisjoint({"teacher"})
    assert "source" not in json.loads(canonical(identity_of(cell)))["method"]


def test_every_submitted_source_is_one_the_version_had():
    for path in ROOT.glob("leaderboards/results/*/*.json"):
        record = json.loads(path.read_text())["record"]
        method = record["identity"]["method"]
        known = known_sources(method["id"], method["version"]) | {source_hash(get_method(method["id"]))}
        assert record["method_source"] in known


if __name__ == "__main__":
    KEYS.write_text(json.dumps(shipped_keys(), indent=1) + "\n")
