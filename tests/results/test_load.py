"""What is read from stores, results folders, runs and entries, and what is said of damage."""

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

import cakdbench
from cakdbench.records import Identity
from cakdbench.results.load import Evidence, find_run
from cakdbench.store import Store, run_key
from cakdbench.utils.errors import UsageError
from tests.results.lab import DEMO, copy_results, copy_run, entries


@pytest.fixture
def results(tmp_path):
    return copy_results(tmp_path / "boards", "kd", "scratch")


def one_entry(method="kd"):
    return next(iter(entries(method)))


def load_with_warnings(*paths):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return cakdbench.load_results(*paths), [str(warning.message) for warning in told]


def test_a_row_has_what_the_record_says(results):
    runs = cakdbench.load_results(results).set_index("key")
    for path, entry in {**entries("kd"), **entries("scratch")}.items():
        record, run = entry["record"], runs.loc[path.stem]
        identity, result, conditions = record["identity"], record["result"], record["conditions"]
        assert (run.method, run.seed, run.student) == (record["label"], identity["seed"], identity["student"])
        assert (run.top1, run.top5, run.optimistic_top1) == (result["top1"], result["top5"], result["optimistic_top1"])
        assert (run.seconds, run.images_per_second) == (conditions["seconds"], conditions["images_per_second"])
        assert pd.isna(run.energy_wh) == (conditions["energy_wh"] is None)
        assert run.path == str(results / record["identity"]["method"]["id"] / path.name)
        teacher = identity.get("teacher")
        assert pd.isna(run.teacher) if teacher is None else run.teacher == teacher["model"]
        assert run.pair.endswith(f"{identity['student']}@{identity['dataset']['name']}")


def test_runs_and_entries_can_be_named_one_by_one(results, tmp_path):
    first, second, third = list(entries("kd"))[:3]
    folder = copy_run(tmp_path / "elsewhere", first)
    runs = cakdbench.load_results(folder, results / "kd" / second.name, copy_run(tmp_path, third) / "record.json")
    assert list(runs.key) == sorted(path.stem for path in (first, second, third))
    assert set(runs.status) == {"not submitted", "claimed"}


def test_a_run_in_several_places_counts_once_as_ones_own_before_a_claim(results, tmp_path):
    for entry in list(entries("kd"))[:2]:
        copy_run(tmp_path / "store", entry)
    for paths in ((tmp_path / "store", results), (results, tmp_path / "store"), (results, results)):
        runs = cakdbench.load_results(*paths)
        assert runs.key.is_unique and len(runs) == len(entries("kd")) + len(entries("scratch"))
        own = {path.stem for path in list(entries("kd"))[:2]} if tmp_path / "store" in paths else set()
        assert {*runs.key[runs.status == "not submitted"]} == own
        assert {*runs.status} <= {"claimed", "not submitted"}
    assert set(cakdbench.load_results(tmp_path / "store").status) == {"not submitted"}


def test_damaged_files_are_told_and_the_rest_is_kept(results, tmp_path):
    first, second = list(entries("kd"))[:2]
    whole = len(cakdbench.load_results(results))
    (results / "kd" / first.name).write_text("{")
    (results / "kd" / second.name).with_suffix(".npy").write_bytes(b"x")
    store = tmp_path / "store"
    (copy_run(store, first) / "record.json").write_text("[]")
    runs, told = load_with_warnings(results, store)
    assert len(runs) == whole - 2 and len(told) == 3
    for name in (first.name, second.name, "record.json"):
        assert sum(name in sentence for sentence in told) >= 1
    assert load_with_warnings(results / "kd" / first.name)[1]


def test_an_empty_folder_gives_an_empty_frame_of_the_same_columns(results, tmp_path):
    (tmp_path / "empty").mkdir()
    none, some = cakdbench.load_results(tmp_path / "empty"), cakdbench.load_results(results)
    assert none.empty and none.dtypes.equals(some.dtypes)


def test_a_path_without_anything_is_named(results, tmp_path):
    with pytest.raises(UsageError, match="no results at .*nowhere: name a store"):
        cakdbench.load_results(results, tmp_path / "nowhere")


def test_without_paths_the_store_and_the_submitted_results_around_are_read(results, tmp_path, monkeypatch):
    monkeypatch.delenv("CAKDBENCH_STORE", raising=False)
    inside = tmp_path / "checkout/docs"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises(UsageError, match="name a store or a results folder"):
        cakdbench.load_results()
    shutil.copytree(results, tmp_path / "checkout/leaderboards/results")
    submitted = len(cakdbench.load_results())
    assert submitted == len(entries("kd")) + len(entries("scratch"))
    copy_run(inside / "runs", one_entry("fbt"))
    assert len(cakdbench.load_results()) == submitted + 1


def test_runs_with_other_settings_say_so(tmp_path):
    folder = copy_run(tmp_path, one_entry())
    content = json.loads((folder / "record.json").read_bytes())
    content["identity"]["recipe"]["epochs"] = 7
    content["key"] = key = run_key(Identity.model_validate(content["identity"]))
    (folder / "record.json").write_text(json.dumps(content))
    folder.rename(tmp_path / key)
    other = copy_run(tmp_path, list(entries("kd"))[1])
    content = json.loads((other / "record.json").read_bytes())
    content["teacher"]["standard"] = False
    (other / "record.json").write_text(json.dumps(content))
    reasons = cakdbench.load_results(tmp_path).set_index("key").excluded
    assert reasons[key] == "recipe.epochs = 7 (standard 6)"
    assert "not the registry's" in reasons[other.name]


def test_a_recipe_that_is_not_here_has_the_numbers_of_most_of_its_runs(tmp_path):
    own = [copy_run(tmp_path, entry) for entry in [*list(entries("kd"))[:2], next(iter(entries("scratch")))]]
    for folder in own:
        content = json.loads((folder / "record.json").read_bytes()) | {"recipe_name": "mine"}
        if folder == own[1]:
            content["identity"]["recipe"]["epochs"] = 7
        (folder / "record.json").write_text(json.dumps(content))
    reasons = cakdbench.load_results(tmp_path).excluded
    assert sorted(reasons.fillna("")) == ["", "", "recipe.epochs = 7 (standard 6)"]


def test_runs_on_data_that_nobody_described_cannot_be_judged(tmp_path):
    folders = [copy_run(tmp_path, one_entry()), copy_run(tmp_path, next(iter(entries("scratch"))))]
    for folder in folders:
        content = json.loads((folder / "record.json").read_bytes())
        content["identity"]["dataset"]["name"] = "pets"
        content["identity"]["student"] = "vit_xs"
        (folder / "record.json").write_text(json.dumps(content))
    reasons = cakdbench.load_results(tmp_path).excluded
    assert all(reason.startswith("cannot be judged: unknown dataset 'pets'") for reason in reasons), reasons


def test_the_training_of_a_teacher_does_not_count():
    runs = cakdbench.load_results(DEMO)
    teachers = runs[runs.weights_sha256.isin(runs.teacher_sha256.dropna())]
    assert len(teachers) == 2 and set(teachers.excluded) == {"it is the training of a teacher"}
    assert "it is the training of a teacher" not in set(runs.drop(teachers.index).excluded)


def test_damaged_predictions_are_told_by_whoever_meets_them(tmp_path):
    runs = cakdbench.load_results(copy_run(tmp_path, one_entry()).parent)
    (tmp_path / runs.key[0] / "predictions.npy").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged file .*predictions.npy"):
        assert len(cakdbench.load_results(tmp_path)) == 0
    with pytest.warns(UserWarning, match="damaged file .*predictions.npy"):
        cakdbench.summarize(runs)


def test_history_has_every_epoch_of_the_records(results):
    runs = cakdbench.load_results(results)
    epochs = cakdbench.history(runs[runs.method == "kd"])
    for path, entry in entries("kd").items():
        lines = epochs[epochs.key == path.stem]
        written = entry["record"]["history"]
        assert list(lines.epoch) == [epoch["epoch"] for epoch in written]
        assert list(lines.lr) == [epoch["lr"] for epoch in written]
        assert list(lines.loss_kd) == [epoch["losses"]["kd"] for epoch in written]
        assert np.array_equal(lines.top1, [epoch["top1"] for epoch in written])
    assert set(epochs.method) == {"kd"} and epochs.seed.nunique() == 3


def test_a_frame_without_the_needed_columns_is_told(results):
    runs = cakdbench.load_results(results)
    for function in (cakdbench.summarize, cakdbench.history, lambda frame: cakdbench.compare(frame, "kd", "scratch")):
        with pytest.raises(UsageError, match="no column .*path.*as `load_results` returns them"):
            function(runs.drop(columns="path"))


def test_a_run_is_found_by_key_start_or_folder(results, tmp_path):
    evidence, entry = Evidence.read([results]), one_entry()
    assert find_run(entry.stem, evidence).key == find_run(entry.stem[:-3], evidence).key == entry.stem
    folder = copy_run(tmp_path / "store", one_entry("fbt"))
    assert find_run(str(folder), evidence).key == folder.name
    assert Evidence(Store(tmp_path / "store")).records[0].key == folder.name
    with pytest.raises(UsageError, match="is the start of"):
        find_run("kd-", evidence)
    with pytest.raises(UsageError, match="unknown run 'nothing'"):
        find_run("nothing", evidence)


def test_a_claim_with_other_numbers_gives_way_to_the_own_run_and_is_told(results, tmp_path):
    entry = next(iter(entries("kd")))
    copy_run(tmp_path / "store", entry)
    path = results / "kd" / entry.name
    content = json.loads(path.read_text())
    own = content["record"]["result"]["top1"]
    content["record"]["result"]["top1"] = 20.0
    path.write_text(json.dumps(content))
    for paths in ((tmp_path / "store", results), (results, tmp_path / "store")):
        runs, told = load_with_warnings(*paths)
        assert runs[runs.key == entry.stem].top1.item() == own
        assert len(told) == 1 and f"{entry.stem}: {own:.2f} % counts, 20.00 % does not" in told[0]
