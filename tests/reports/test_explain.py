"""`cakdbench diff`, `cakdbench explain-run`, and what they are told of."""

import hashlib
import io

import numpy as np
import pytest
from rich.console import Console

from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import own_suites
from cakdbench.reports.difference import difference_table, subject
from cakdbench.reports.explain import explain_run, places
from cakdbench.results.load import Evidence, find_run
from cakdbench.store import RunFolder, Store
from cakdbench.submissions.submit import npy_bytes
from cakdbench.utils.errors import UsageError
from tests.reports.synthetic import record
from tests.reports.test_write import DATASET, SPEC, fill


@pytest.fixture
def evidence(tmp_path):
    store = Store(tmp_path / "runs")
    fill(store, seeds=(0, 1))
    fill(store, settings=["recipe.epochs=7"])
    return Evidence(store, None)


def shown(*renderables):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    for each in renderables:
        console.print(each)
    return console.file.getvalue()


def differences(first, second, evidence):
    text = shown(difference_table(subject(first, evidence), subject(second, evidence), evidence))
    return {
        cells[0]: tuple(cells[1:])
        for line in text.splitlines()
        if len(cells := [c.strip() for c in line.split("│")[1:-1]]) == 3
    }


def key(evidence, label, seed, epochs=300):
    (found,) = (
        r.key
        for r in evidence.records
        if (r.label, r.identity.seed, r.identity.recipe["epochs"]) == (label, seed, epochs)
    )
    return found


def test_two_recipes_differ_in_exactly_their_numbers(evidence):
    found = differences("ofa_cifar_cnn", "ofa_cifar_cnn_yaml", evidence)
    assert found.pop("recipe.optimizer.lr") == ("0.1", "0.05")
    assert all(name.startswith("recipe.") for name in found)
    assert differences("ofa_cifar_cnn", "ofa_cifar_cnn", evidence) == {}


def test_a_recipe_against_a_protocol_names_what_is_not_stated_and_who_says_what(evidence):
    found = differences("ofa_cifar_cnn", "ofa/cifar100/cnn", evidence)
    assert found["recipe.evaluation.crop_pct"][1] == "not stated"
    assert found["recipe.optimizer.lr"] == ("0.1", "0.1 (printed) / 0.05 (released) / 0.1 (by the author)")
    assert "recipe.epochs" not in found


def test_two_runs_differ_in_what_made_them_and_what_came_out(evidence):
    found = differences(key(evidence, "kd", 0), key(evidence, "scratch", 1), evidence)
    assert found["method"] == ("kd", "scratch") and found["seed"] == ("0", "1")
    assert found["top1"] == ("71.00", "70.00") and found["teacher"][1] == "none"
    assert "recipe.epochs" not in found
    changed = differences(key(evidence, "kd", 0), key(evidence, "kd", 0, 7), evidence)
    assert set(changed) == {"recipe.epochs"}


def test_a_run_against_a_protocol(evidence):
    assert differences(key(evidence, "kd", 0, 7), "ofa/cifar100/cnn", evidence)["recipe.epochs"] == ("7", "300")


def test_predictions_are_compared_image_by_image(evidence, tmp_path, monkeypatch):
    first, second = (key(evidence, label, 0) for label in ("kd", "scratch"))
    labels = np.arange(10) % 3
    for run, wrong in ((first, [0]), (second, [0, 1, 2])):
        predictions = labels.copy()
        predictions[wrong] = 9
        folder, content = RunFolder(evidence.store.root / run), npy_bytes(predictions)
        folder.predictions.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        folder.finish(folder.record().model_copy(update={"predictions_sha256": sha256}))
    evidence = Evidence(evidence.store, None)
    monkeypatch.setattr(evidence.answers_by_key, "_labels", lambda *_: labels)
    assert differences(first, second, evidence)["test images only this run has right"] == ("2", "0")


def test_a_run_is_found_by_the_start_of_its_key(evidence):
    whole = key(evidence, "scratch", 1)
    assert find_run(whole, evidence).key == find_run(whole[:-3], evidence).key == whole
    with pytest.raises(UsageError, match="is the start of 3 runs"):
        find_run("kd-", evidence)
    with pytest.raises(UsageError, match="unknown run 'nothing'"):
        find_run("nothing", evidence)


def test_a_run_says_why_it_is_or_is_not_on_a_board(evidence):
    standard, changed = (find_run(key(evidence, "kd", 0, epochs), evidence) for epochs in (300, 7))
    assert list(places(standard, evidence)) == ["cifar100: counts for swin_t>resnet18@cifar100"]
    assert list(places(changed, evidence)) == ["cifar100: set aside: recipe.epochs = 7 (standard 300)"]
    elsewhere = record("kd", "a>b@nowhere")
    assert list(places(elsewhere, evidence)) == [
        "no suite of cakdbench has its pair; a suite of your own is named with --pairs FILE"
    ]


def test_a_run_of_ones_own_suite_is_explained_by_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "ofa_cifar_cnn"\ntitle = "x"\nsource = "x"\nepochs = 2\n')
    pair = "swin_t>resnet18@cifar100"
    (tmp_path / "suite.toml").write_text(
        f'board = "own"\n[suites.own]\ntitle = "Own"\nrecipe = "mine.toml"\npairs = ["{pair}"]\n'
    )
    own = own_suites(str(tmp_path / "suite.toml"))
    fill(Store(tmp_path / "runs"), own[0].specs)
    evidence = Evidence(Store(tmp_path / "runs"), None)
    run = next(run for run in evidence.records if run.label == "kd")
    assert "own: counts for " + pair in list(places(run, evidence, own))
    assert "no recipe mine; a suite of your own is named with --pairs" in shown(*explain_run(run, evidence))
    assert "none: the recipe as it is installed" in shown(*explain_run(run, evidence, own))


def test_the_explanation_tells_where_a_run_comes_from(evidence):
    made = find_run(key(evidence, "kd", 0, 7), evidence)
    text = shown(*explain_run(made, evidence))
    for part in (made.key, "not submitted", "recipe.epochs = 7 (standard 300)", made.weights_sha256, "temperature"):
        assert part in text


def test_damage_is_told_and_the_rest_kept(evidence):
    cell = make_plan([], (SPEC,), (0,), Settings.parse([])).cells[0]
    folder = evidence.store.run(cell.identity(DATASET, None))
    (folder.path / "record.json").write_text("{")
    found = Evidence(evidence.store, None)
    assert len(found.records) == len(evidence.records) - 1 and "damaged file" in found.damage[0]
