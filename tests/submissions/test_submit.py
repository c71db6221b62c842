"""Submitting runs and accepting entries: the two commands, statuses, and what boards are given."""

import json
import shutil
import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import cakdbench
from cakdbench.cli import submissions as cli_submissions
from cakdbench.data.datasets import load_dataset
from cakdbench.grid.suites import resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.reports.pages import write_boards
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from cakdbench.submissions.bundle import Bundle, read_bundle
from cakdbench.submissions.checks.crossing import check_copies
from cakdbench.submissions.checks.history import learning_rates
from cakdbench.submissions.entry import ExternalEntry, entry_bytes, entry_schema
from cakdbench.submissions.evidence import (
    labels_folder,
    labels_name,
    load_labels,
    load_predictions,
    read_entry,
    read_results,
)
from cakdbench.submissions.status import AcceptedTeacher, Verdict, Verdicts, write_verdicts
from cakdbench.submissions.submit import Submitter, find_runs, npy_bytes, schema_bytes, submit
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import accept, validate
from cakdbench.utils.errors import CakdError, StoreError, UsageError

RESULTS = Path(cakdbench.__file__).parents[1] / "leaderboards" / "results"
EXTERNAL = dict(
    method="OFA",
    pair="swin_t>resnet18@cifar100",
    metric="best epoch",
    accuracy=80.54,
    differences=["300 epochs on 8 GPUs"],
    source="https://arxiv.org/abs/2310.19444",
    submitted_by="A. Student",
)


@pytest.fixture
def command(capsys, monkeypatch):
    """`cakdbench submit ...` or `validate ...`: exit code and output."""
    monkeypatch.setattr(cli_submissions.console, "width", 200)

    def run(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cakdbench", *map(str, arguments)])
        code = 0
        try:
            cli_submissions.app()
        except CakdError as error:
            return error.exit_code, str(error)
        except SystemExit as leaving:
            code = leaving.code or 0
        return code, capsys.readouterr().out

    return run


def submit_all(command, store, results, *more):
    return command("submit", "all", "--by", "A. Student", "--store", store.root, "--results", results, *more)


def test_submitted_runs_pass_and_nothing_is_written_twice(command, store, tmp_path):
    results = tmp_path / "boards" / "results"
    code, out = submit_all(command, store, results)
    assert code == 0 and out.count("wrote ") == 7 and "pull request" in out
    files = {path.relative_to(results.parent): path.read_bytes() for path in results.parent.rglob("*.*")}
    code, out = submit_all(command, store, results)
    assert code == 0 and out.count("already there: ") == 3 and "wrote" not in out
    assert files == {path.relative_to(results.parent): path.read_bytes() for path in results.parent.rglob("*.*")}
    code, out = command("validate", results)
    assert code == 0 and "3 entries passed, 0 files refused" in out and out.count("claimed") == 3


def test_entry_holds_the_record_and_the_predictions_unchanged(genuine, store):
    for run in store.runs():
        method = run.record().identity.method.id
        entry = json.loads((genuine / method / f"{run.key}.json").read_text())
        assert entry["record"] == json.loads((run.path / "record.json").read_text())
        assert (genuine / method / f"{run.key}.npy").read_bytes() == run.predictions.read_bytes()


def test_labels_are_written_beside_the_results(genuine):
    data = load_dataset("fashion_demo")
    found = np.load(labels_folder(genuine) / labels_name("fashion_demo", data.fingerprint), allow_pickle=False)
    assert found.dtype == np.uint16 and (found == data.test.labels).all()


@pytest.mark.parametrize("name", ["cc-vit_xs", "run folder"])
def test_runs_are_named_by_the_beginning_of_their_keys_or_their_folders(store, name):
    chosen = next(run for run in store.runs() if run.key.startswith("cc-"))
    found = find_runs([str(chosen.path) if name == "run folder" else name], store)
    assert [run.key for run in found] == [chosen.key]


def test_runs_that_are_unknown_or_unfinished_are_no_entries(store, tmp_path):
    with pytest.raises(UsageError, match="no run 'ofa'"):
        find_runs(["ofa"], store)
    with pytest.raises(UsageError, match="no finished runs"):
        find_runs(["all"], Store(tmp_path))
    run = next(store.runs())
    (tmp_path / run.key).mkdir()
    (tmp_path / run.key / "identity.json").write_bytes((run.path / "identity.json").read_bytes())
    with pytest.raises(UsageError, match="is planned, not done"):
        find_runs([run.key], Store(tmp_path))


def test_a_damaged_run_is_not_written(command, store, tmp_path):
    run = next(run for run in store.runs() if run.key.startswith("cc-"))
    copy = tmp_path / "runs" / run.key
    copy.mkdir(parents=True)
    for name in ("identity.json", "record.json"):
        (copy / name).write_bytes((run.path / name).read_bytes())
    (copy / "predictions.npy").write_bytes(npy_bytes(np.zeros(2000)))
    code, out = submit_all(command, Store(tmp_path / "runs"), tmp_path / "results")
    assert code == 1 and "damaged file" in out and "predictions.npy: not what the run wrote" in out
    assert not (tmp_path / "results").exists()


EDITS = {
    "a key that climbs": lambda record: record.update(key="../../../evil"),
    "an absolute key": lambda record: record.update(key="/tmp/evil"),
    "a method that climbs": lambda record: record["identity"]["method"].update(id="../../evil"),
    "an absolute method": lambda record: record["identity"]["method"].update(id="/tmp/evil"),
    "a method of Windows' devices": lambda record: record["identity"]["method"].update(id="aux"),
    "another run's identity": lambda record: record["identity"].update(seed=5),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_run_of_somebody_else_writes_nothing_outside(command, store, tmp_path, kind):
    run = shutil.copytree(next(run.path for run in store.runs() if run.key.startswith("cc-")), tmp_path / "received")
    record = json.loads((run / "record.json").read_text())
    EDITS[kind](record)
    (run / "record.json").write_text(json.dumps(record))
    before = set(tmp_path.rglob("*"))
    results = tmp_path / "boards" / "results"
    code, out = command("submit", run, "--by", "A", "--store", tmp_path / "none", "--results", results)
    assert code == 1 and ("is not that of its identity" in out or "damaged file" in out)
    assert set(tmp_path.rglob("*")) == before and not list(Path("/tmp").glob("evil*"))


@pytest.mark.parametrize("link", ["results", "results/cc", "labels"])
def test_links_in_the_place_of_folders_are_not_followed(store, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "boards" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(StoreError, match="is a link"):
        submit(find_runs(["cc"], store), tmp_path / "boards" / "results", Submitter("A"))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("wrong", [Submitter("<b>"), Submitter("A", paper="http://x.org"), Submitter("A", code="x")])
def test_a_malformed_submitter_is_an_error(store, tmp_path, wrong):
    with pytest.raises(UsageError, match="give --by NAME, and https addresses"):
        submit(find_runs(["cc"], store), tmp_path / "results", wrong)


def test_refusals_leave_with_an_error_and_one_line_each(command, forgery):
    forgery.edit(lambda record: record["result"].update(top1=99.0))
    code, out = command("validate", forgery.root)
    lines = [line for line in out.splitlines() if line.startswith("refused: cc/")]
    assert code == 1 and len(lines) == 3 and "2 entries passed, 1 files refused" in out


def test_one_entry_or_one_method_can_be_validated(command, forgery):
    forgery.edit(lambda record: record["result"].update(top1=99.0))
    assert command("validate", forgery.root / "scratch")[0] == 0
    assert command("validate", forgery.path("scratch"))[0] == 0
    assert command("validate", forgery.root / "cc")[0] == 1
    assert command("validate", forgery.path("cc"))[0] == 1
    assert command("validate", forgery.path("cc").with_suffix(".npy"))[0] == 2
    assert "no results at" in command("validate", forgery.root / "nothing")[1]


def of_foreign_data(forgery):
    """The scratch entry, on a dataset that is not at hand."""
    data = {"name": "timm:folder/birds", "fingerprint": "ab" * 32}
    return forgery.edit(lambda record: record["identity"].update(dataset=data), "scratch")


def test_without_labels_an_entry_stays_claimed(command, forgery):
    path = of_foreign_data(forgery)
    code, out = command("validate", path)
    assert code == 0 and "1 entries were not re-scored" in out
    assert command("validate", path, "--require-rescoring")[0] == 1


def test_a_file_of_labels_decides_where_the_data_is_not_at_hand(command, forgery, tmp_path):
    path = of_foreign_data(forgery)
    predicted = np.load(path.with_suffix(".npy"), allow_pickle=False)
    right = round(json.loads(path.read_text())["record"]["result"]["top1"] * 20)
    file = tmp_path / f"timm-folder-birds-{'ab' * 8}.npy"
    for change, code in ((0, 0), (1, 1)):
        truth = np.where(np.arange(2000) < right - change, predicted, (predicted + 1) % 10)
        file.write_bytes(npy_bytes(truth))
        assert command("validate", path, "--labels", tmp_path, "--require-rescoring")[0] == code
    file.rename(file.with_name(f"timm-folder-birds-{'cd' * 8}.npy"))
    assert "on other data" in command("validate", path, "--labels", tmp_path)[1]


def test_accepted_entries_are_listed_and_may_not_change(command, forgery):
    code, out = command("validate", forgery.root, "--accept")
    assert code == 0 and "accepted: 3 new entries" in out
    code, out = command("validate", forgery.root)
    assert code == 0 and out.count("re-scored") == 4  # three entries and a title
    forgery.text(lambda text: text.replace("A. Student", "B. Student"))
    assert any("was changed after it had been found re-scored" in text for text in forgery.refusals())
    forgery.path().unlink()
    assert any("which is missing" in text for text in forgery.refusals())


def test_accepted_teachers_are_the_only_ones(forgery):
    line = AcceptedTeacher(model="vit_m", dataset="fashion_demo", image_size=16, sha256="f" * 64)
    write_verdicts(forgery.root, Verdicts(teachers=(line,)))
    assert any("other teacher" in text and "(ffffffffffffffff)" in text for text in forgery.refusals())
    write_verdicts(forgery.root, Verdicts(teachers=(line, line.model_copy(update={"sha256": "e" * 64}))))
    assert any("lists a teacher twice" in text for text in forgery.refusals())
    bf16 = line.model_copy(update={"precision": "bf16"})
    write_verdicts(forgery.root, Verdicts(teachers=(bf16,)))
    assert forgery.refusals() == []


def test_a_teacher_is_accepted_with_a_training_by_its_own_recipe_alone(forgery):
    """The students of this bundle say themselves that their teacher is not the registry's."""
    assert accept(forgery.root, forgery.validate(), "2026-01-31") == 3
    assert "teachers" not in (forgery.root / "status.toml").read_text()
    (forgery.root / "status.toml").unlink()
    forgery.edit(lambda record: record["teacher"].update(standard=True))
    assert accept(forgery.root, forgery.validate(), "2026-01-31") == 2
    assert forgery.path().stem not in (forgery.root / "status.toml").read_text()


def test_a_refused_entry_is_not_accepted(forgery):
    forgery.edit(lambda record: record["result"].update(top1=99.0))
    assert accept(forgery.root, forgery.validate(), "2026-01-31") == 2
    assert forgery.path("cc").stem not in (forgery.root / "status.toml").read_text()


def test_of_two_copies_the_newcomer_is_refused(forgery):
    accept(forgery.root, forgery.validate(), "2026-01-31")
    copy = forgery.edit(lambda record: record["identity"].update(seed=9), "scratch", copy=True)
    assert {text.split(":")[0] for text in forgery.refusals()} == {f"scratch/{copy.name}"}


@pytest.mark.parametrize(("images", "copied"), [(60, False), (600, True)])
def test_equal_predictions_prove_a_copy_on_many_images_alone(forgery, images, copied):
    first, second, *_ = read_bundle(forgery.root).entries
    predictions = np.arange(images, dtype=np.uint16) % 10
    record = second.record.model_copy(update={"predictions_sha256": first.record.predictions_sha256})
    other = replace(second, entry=second.entry.model_copy(update={"record": record}), predictions=predictions)
    found = list(check_copies([replace(first, predictions=predictions), other], lambda entry: entry is other))
    assert bool(found) is copied


def test_an_accepted_entry_of_earlier_source_stays(forgery):
    path = forgery.edit(lambda record: record["identity"]["method"].update(version=None, source="e" * 64))
    assert any("has no version of cc" in text for text in forgery.refusals())
    sha256 = next(entry.sha256 for entry in read_bundle(forgery.root).entries if entry.key == path.stem)
    verdict = Verdict(key=path.stem, sha256=sha256, status="re-run", date="2026-01-31", note='by "us"')
    write_verdicts(forgery.root, Verdicts(entries=(verdict,)))
    assert forgery.refusals() == []
    assert {line.status for line in forgery.validate().lines} == {"claimed", "re-run"}


def test_boards_read_what_is_whole(forgery):
    accept(forgery.root, forgery.validate(), "2026-01-31")
    found = read_results(forgery.root)
    assert len(found.entries) == 3 and found.findings == []
    assert {found.verdicts.by_key()[entry.key].status for entry in found.entries} == {"re-scored"}
    assert read_entry(forgery.path())[1] == "re-scored"
    forgery.text(lambda text: text.replace("A. Student", "B. Student"))
    found = read_results(forgery.root)
    assert len(found.entries) == 2 and "was changed" in str(found.findings[0])
    with pytest.raises(StoreError, match="was changed"):
        read_entry(forgery.path())
    forgery.predict(np.zeros(2000), hashed=False)
    assert len(read_results(forgery.root).entries) == 2
    assert read_results(forgery.root / "nothing") == Bundle()


def test_boards_get_predictions_and_labels_that_score_as_recorded(forgery):
    records = {forgery.root / entry.file: entry.record for entry in read_results(forgery.root).entries}
    for file, record in records.items():
        data = record.identity.dataset
        labels = load_labels(labels_folder(forgery.root), data.name, data.fingerprint)
        correct = load_predictions(file.with_suffix(".npy"), record.predictions_sha256) == labels
        assert 100 * correct.mean() == pytest.approx(record.result.top1, abs=1e-9)
    file, record = next(item for item in records.items() if item[1].identity.method.id == "cc")
    file = file.with_suffix(".npy")
    file.write_bytes(npy_bytes(np.zeros(2000)))
    with pytest.raises(StoreError, match="not the predictions of the record"):
        load_predictions(file, record.predictions_sha256)
    file.unlink()
    assert load_predictions(file, record.predictions_sha256) is None


def test_boards_get_labels_of_the_same_data_only(forgery):
    data = load_dataset("fashion_demo")
    assert load_labels(forgery.labels, "cifar100", "a" * 64) is None
    assert load_labels(forgery.labels, "fashion_demo", "a" * 64) is None
    file = next(forgery.labels.glob("*.npy"))
    file.write_bytes(b"x")
    with pytest.raises(StoreError, match="no NumPy file"):
        load_labels(forgery.labels, "fashion_demo", data.fingerprint)
    file.unlink()
    assert load_labels(forgery.labels, "fashion_demo", data.fingerprint) is None


def test_external_numbers_are_shown_and_never_rescored(command, forgery):
    folder = forgery.root / "external"
    folder.mkdir()
    (folder / "ofa.json").write_bytes(entry_bytes(ExternalEntry(**EXTERNAL | {"differences": ("300 epochs",)})))
    assert read_results(forgery.root).external["external/ofa.json"].accuracy == 80.54
    code, out = command("validate", forgery.root, "--require-rescoring")
    assert code == 0 and "external/ofa.json" in out and "80.54" in out
    for key, value, reason in (
        ("accuracy", 180.0, "less than or equal to 100"),
        ("pair", "swin_t>resnet99@cifar100", "its pair does not exist"),
        ("source", "http://example.org", "should match"),
        ("status", "re-run", "Extra inputs"),
    ):
        (folder / "ofa.json").write_text(json.dumps(EXTERNAL | {key: value}))
        assert any(reason in text for text in forgery.refusals())


def test_schema_in_the_repository_is_current():
    assert (RESULTS / "entry.schema.json").read_bytes() == schema_bytes(), "write it anew: see CONTRIBUTING.md"


def test_schema_forbids_unknown_fields_everywhere():
    tables = [table for table in entry_schema()["$defs"].values() if table.get("type") == "object"]
    assert len(tables) >= 9 and all(table["additionalProperties"] is False for table in tables)


@pytest.mark.parametrize("name", ["demo", "ofa_cifar_cnn", "ofa_imagenet_cnn", "ofa_imagenet_msa", "pcagl_cifar"])
def test_learning_rates_follow_the_schedule(name):
    """Against the formulas: a cosine over epochs or steps after a linear warm-up, or decays by a factor."""
    recipe, steps = load_recipe(name), 100
    spec, found = recipe.schedule, learning_rates(recipe, steps)
    scale = steps if spec.per == "step" else 1
    for epoch, rate in enumerate(found):
        t = (epoch + 1) * steps - 1 if spec.per == "step" else epoch
        if t < spec.warmup_epochs * scale:
            slope = (recipe.optimizer.lr - spec.warmup_lr) / (spec.warmup_epochs * scale)
            expected = spec.warmup_lr + t * slope
        elif spec.name == "cosine":
            wave = 0.5 * (1 + np.cos(np.pi * t / (recipe.epochs * scale)))
            expected = spec.min_lr + (recipe.optimizer.lr - spec.min_lr) * wave
        else:  # timm counts the epochs of a list from 1
            many = spec.name == "multistep"
            decays = (
                sum(t + 1 >= end * scale for end in spec.decay_epochs) if many else t // (spec.decay_epochs * scale)
            )
            expected = recipe.optimizer.lr * spec.decay_rate**decays
        assert rate == pytest.approx(expected, rel=1e-9)


def test_runs_from_the_future_are_judged_by_the_clock_given(genuine):
    past = datetime(2020, 1, 1, tzinfo=UTC)
    told = [str(finding) for finding in validate(genuine, Truth(labels_folder(genuine)), past).refused]
    assert len(told) == 3 and all("finished in the future" in text for text in told)


def test_nothing_public_names_a_folder_a_host_or_a_user(store, tmp_path):
    """Records of before have the path of the teacher's file; new ones never do."""
    work, home = tmp_path / "public", "/home/jdoe/private"
    shutil.copytree(store.root, tmp_path / "runs")
    runs = find_runs(["all"], Store(tmp_path / "runs"))
    for sums in (tmp_path / "runs").glob("*/SHA256SUMS"):
        sums.unlink()  # as runs of before have none
    for path, source in zip(sorted((tmp_path / "runs").glob("cc-*/record.json")), [f"trained by {home}/mine.toml"]):
        path.write_text(path.read_text().replace("trained by demo_teacher", source))
        assert home in path.read_text()
    for run in runs:  # not the registry's teacher any more
        path = run.path / "record.json"
        path.write_text(path.read_text().replace('"standard":true', '"standard":false').replace(
            '"standard": true', '"standard": false'))  # fmt: skip
    submit(runs, work / "results", Submitter("A. Student"))
    frame = cakdbench.load_results(work / "results")
    for name, table in (("runs", frame), ("own", cakdbench.load_results(tmp_path / "runs"))):
        table.drop(columns="path").to_csv(work / f"{name}.csv")  # of a table for oneself: says where the runs lie
    evidence = Evidence(Store(tmp_path / "runs"), work / "results")
    write_boards(evidence, resolve_pairs("demo"), work / "boards", Console(quiet=True))
    files = [path for path in work.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".npy", ".csv", ".md"}
    secrets = {home, "jdoe", str(tmp_path), str(Path.home()) + "/", socket.gethostname(), str(Path.cwd())}
    for path in files:
        assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path
