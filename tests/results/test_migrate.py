"""Records of format 1, as an earlier cakdbench wrote them, are carried over without training again."""

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from cakdbench import registry
from cakdbench.cli.results import migrate as command
from cakdbench.models.weights import state_sha256
from cakdbench.recipes import all_numbers
from cakdbench.records import Identity, Record
from cakdbench.registry import get_method, load_file
from cakdbench.results.migrate import migrate
from cakdbench.results.upgrade import upgraded
from cakdbench.source_hash import method_identity
from cakdbench.store import RunFolder, Store, run_key
from cakdbench.submissions.evidence import read_results
from cakdbench.submissions.status import Verdict, Verdicts, read_verdicts, write_verdicts
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import validate
from cakdbench.train.checkpoint import save_checkpoint
from cakdbench.utils.errors import StoreError, UsageError

ROOT = Path(__file__).parents[2]
OLD = Path(__file__).with_name("format_1")
STATE = {"weight": torch.arange(3.0)}


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(OLD, tmp_path / "results")


def old_records():
    return [json.loads(path.read_text())["record"] for path in sorted(OLD.glob("*/*.json"))]


def old_store(root):
    """A store of format 1 with a finished run for each old record."""
    for record in old_records():
        folder = root / record["key"]
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(json.dumps(record["identity"]))
        (folder / "record.json").write_text(json.dumps(record | {"weights_sha256": state_sha256(STATE)}))
        (folder / "student.safetensors").write_bytes(save(STATE))
        entry = next(OLD.glob(f"*/{record['key']}.npy"))
        shutil.copy(entry, folder / "predictions.npy")
    return Store(root)


MOVED = {
    "irg-mixer_xs-fashion_demo-s0-831060d41d6d671e",
    "kd-vit_xs-fashion_demo-s0-5340083f20b180a0",
    "scratch-vit_xs-fashion_demo-s0-d9c807682d924f77",
}
"""The keys that the repository had for these records after its own migration."""


def test_entries_pass_under_the_keys_that_the_repository_gave_them(results):
    moved = list(migrate(results))
    assert len(moved) == len(old_records()) and all(run.new for run in moved)
    report = validate(results, Truth(ROOT / "leaderboards/labels"))
    assert [str(f) for f in report.findings if f.refused] == []
    assert {path.stem for path in results.glob("*/*.json")} == MOVED


def test_validate_says_of_format_1_how_it_is_brought_up_to_date(results):
    refused = [str(finding) for finding in validate(results, Truth(ROOT / "leaderboards/labels")).refused]
    assert len(refused) == len(old_records())
    assert all(f"is of an earlier cakdbench; `cakdbench migrate {results}`" in text for text in refused)


def test_what_was_computed_stays_as_it_was(results):
    list(migrate(results))
    bundle = read_results(results)
    assert bundle.findings == []
    new = {(entry.record.label, entry.record.identity.seed): entry.record for entry in bundle.entries}
    assert {label for label, _ in new} == {"scratch", "kd", "irg:free_maximum"}
    for old in old_records():
        method = old["identity"]["method"]
        record = new[
            f"{method['id']}:{method['variant']}" if method["variant"] else method["id"], old["identity"]["seed"]
        ]
        assert record.recipe == record.recipe | all_numbers(old["identity"]["recipe"])
        assert record.result.model_dump() == old["result"] and len(record.history) == len(old["history"])
        assert record.weights_sha256 == old["weights_sha256"] and record.method_source == method["source"]
        assert record.identity.method.version == 1


def test_a_second_time_there_is_nothing_to_do(results):
    list(migrate(results))
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert list(migrate(results)) == []
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_a_store_says_what_to_do_and_is_done_after_it(tmp_path):
    store = old_store(tmp_path / "runs")
    assert "`cakdbench migrate" in store.records()[1][0]
    assert all(run.new for run in migrate(store.root))
    records, damage = store.records()
    assert damage == [] and len(records) == len(old_records())
    for run in store.runs():
        assert run.key == run_key(run.identity()) == run.record().key
        assert run.label() == run.record().label
        assert run.mend() is None and np.load(run.predictions).dtype == np.uint16
        for line in (run.path / "SHA256SUMS").read_text().splitlines():
            digest, _, name = line.partition("  ")
            assert hashlib.sha256((run.path / name).read_bytes()).hexdigest() == digest


def test_a_run_with_other_weights_than_its_record_says_is_not_carried_over(tmp_path):
    store = old_store(tmp_path / "runs")
    first = next(store.runs())
    first.student.write_bytes(save({"weight": torch.zeros(3)}))
    reasons = {run.old: run.reason for run in migrate(store.root)}
    assert "not the weights of its record" in reasons.pop(first.key) and set(reasons.values()) == {""}


def test_a_migration_that_was_killed_before_the_folder_had_its_name_goes_on(tmp_path, monkeypatch):
    store = old_store(tmp_path / "runs")

    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cakdbench.results.migrate.os.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            list(migrate(store.root))
    assert len(list(migrate(store.root))) == len(old_records())
    assert {run.key for run in store.runs()} == {run_key(run.identity()) for run in store.runs()}


def test_a_run_that_is_worked_on_or_there_already_is_left_alone(tmp_path):
    store = old_store(tmp_path / "runs")
    first = next(store.runs())
    worker = RunFolder(first.path)
    assert worker.acquire()
    (left, *_) = migrate(store.root)
    worker.release()
    assert left.new is None and "a process works on it" in left.reason


def test_an_unfinished_run_gets_its_key_and_begins_anew(tmp_path):
    record = old_records()[0]
    folder = tmp_path / record["key"]
    folder.mkdir()
    save_checkpoint(folder / "checkpoints", 4, {"weights": torch.zeros(1)}, "kd")
    (folder / "identity.json").write_text(json.dumps(record["identity"]))
    (run,) = migrate(tmp_path)
    assert run.new == run_key(Identity.model_validate_json((tmp_path / run.new / "identity.json").read_bytes()))


def test_code_that_no_version_had_stays_what_a_run_is_known_by(results):
    path = next(results.glob("kd/*.json"))
    entry = json.loads(path.read_text())
    entry["record"]["identity"]["method"]["source"] = "0" * 64
    path.write_text(json.dumps(entry))
    list(migrate(results))
    (record,) = [Record(**json.loads(p.read_text())["record"]) for p in results.glob("kd/*.json")]
    assert (record.identity.method.version, record.identity.method.source) == (None, "0" * 64)


def test_a_method_that_is_not_installed_keeps_its_settings(results):
    path = next(results.glob("kd/*.json"))
    entry = json.loads(path.read_text())
    entry["record"]["identity"]["method"] |= {"id": "foreign", "variant": "odd"}
    path.write_text(json.dumps(entry))
    list(migrate(results))
    (record,) = [Record(**json.loads(p.read_text())["record"]) for p in results.glob("kd/*.json")]
    assert (
        record.label == "foreign:odd"
        and record.identity.method.config == entry["record"]["identity"]["method"]["config"]
    )


@pytest.mark.parametrize("borrows", [False, True])
def test_a_method_of_a_file_that_became_a_built_in_one_keeps_its_runs(tmp_path, monkeypatch, borrows):
    text = (ROOT / "methods/kd.py").read_text().replace('"kd"', '"mine"', 1).replace('"hinton",', "")
    if borrows:
        text = text.replace("@force_fp32", "from cakdbench.methods.dist import dist_loss\n\n\n@force_fp32", 1)
    (tmp_path / "mine.py").write_text(text)
    load_file(tmp_path / "mine.py")
    run = finished(Store(tmp_path / "runs"), method_identity(get_method("mine"), get_method("mine").Config()))
    built_in(tmp_path / "mine.py", monkeypatch)
    (moved,) = migrate(tmp_path / "runs")
    (now,) = Store(tmp_path / "runs").runs()
    assert moved.old == run.key and moved.new == now.key == now.record().key == run_key(now.identity())
    assert (now.identity().method.version, now.identity().method.source) == (1, None)
    assert list(migrate(tmp_path / "runs")) == []


def finished(store, method):
    """A finished run of a method, made from an old record."""
    record = Record.model_validate(upgraded(old_records()[1]).model_dump())
    identity = record.identity.model_copy(update={"method": method})
    record = record.model_copy(update={"identity": identity, "key": run_key(identity), "label": method.id})
    store.create()
    run = store.run(identity)
    run.open(identity, method.id, "demo")
    run.finish(record)
    return run


def built_in(path, monkeypatch):
    """Register a file's method as if the file lay in methods/."""
    for name in ("_methods", "_aliases"):
        monkeypatch.setattr(registry, name, {k: v for k, v in getattr(registry, name).items() if k != "mine"})
    spec = importlib.util.spec_from_file_location("cakdbench.methods.mine", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)


def test_what_is_damaged_is_named_and_the_rest_carried_over(tmp_path, results):
    store = old_store(tmp_path / "runs")
    first, second, third = store.root.iterdir()
    (first / "identity.json").write_text("half a fi")
    (second / "record.json").write_text(json.dumps({"identity": {"schema_version": 1}}))
    reasons = {run.old: run.reason for run in migrate(store.root)}
    assert "is damaged" in reasons[first.name] and "cannot be carried over" in reasons[second.name]
    assert reasons[third.name] == ""
    path = next(results.glob("kd/*.json"))
    path.write_text(json.dumps({"format": 1, "record": {"identity": {"schema_version": 1}}}))
    moved = {run.old: run for run in migrate(results)}
    assert moved[path.stem].new is None and sum(run.new is not None for run in moved.values()) == 2


def test_the_maintainers_list_follows(results):
    path = next(results.glob("kd/*.json"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    write_verdicts(
        results, Verdicts(entries=(Verdict(key=path.stem, sha256=sha256, status="re-run", date="2026-01-31"),))
    )
    list(migrate(results))
    (verdict,) = read_verdicts(results).entries
    (now,) = results.glob("kd/*.json")
    assert verdict.key == now.stem and verdict.sha256 == hashlib.sha256(now.read_bytes()).hexdigest()
    assert verdict.status == "re-run"


def test_a_setting_that_was_added_since_is_off_in_an_old_record(results):
    path = next(results.glob("kd/*.json"))
    entry = json.loads(path.read_text())
    old = entry["record"]["identity"]
    old["method"] |= {"id": "pcagl", "config": {}}
    assert upgraded(entry["record"]).label in ("pcagl:coin_per_transform", "pcagl")
    old["student"], old["teacher"]["model"] = "mobilenet_s", "swin_m"
    assert upgraded(entry["record"]).label == "pcagl:coin_per_transform"


def test_a_wrong_folder_is_an_error_that_says_what_to_name(tmp_path):
    with pytest.raises(UsageError, match="no folder at .*: name a store"):
        list(migrate(tmp_path / "typo"))


def test_a_record_of_another_shape_is_named_damaged(tmp_path):
    store = old_store(tmp_path)
    list(migrate(store.root))
    run = next(store.runs())
    (run.path / "record.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match="damaged file .*record.json: key: Field required"):
        run.record()


def test_the_command_is_documented():
    assert "nothing is trained" in command.__doc__
