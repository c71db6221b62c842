"""Forged entries beside the repository's own: each is refused or noted, none ranks, no honest number moves."""

import json
import re
import shutil

import numpy as np
import pytest

from cakdbench.cli.results import leaderboard
from cakdbench.grid.experiments import load_experiment
from cakdbench.grid.teachers import TeacherEntry, load_teachers
from cakdbench.records import TeacherIdentity
from cakdbench.reports.page_experiment import experiment_board
from cakdbench.submissions.status import Verdicts, read_verdicts, write_verdicts
from cakdbench.submissions.submit import npy_bytes
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import accept
from cakdbench.utils.errors import StoreError
from tests.submissions.repository import Repository


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "leaderboards")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return Repository(tmp_path_factory.mktemp("honest") / "leaderboards").board()


def put(path, value):
    """A change of one value of a record; `path` as in `identity.seed`."""

    def change(record):
        *tables, name = path.split(".")
        for table in tables:
            record = record[table]
        record[name] = value

    return change


def also(*changes):
    return lambda record: [change(record) for change in changes]


def rename(id, label=None):
    return also(put("identity.method.id", id), put("label", label or id), put("conditions.lanes", [label or id]))


def several(**said):
    """A change to two teachers, of whom the second says more than it has to."""
    first = TeacherIdentity(model="resnet_m", sha256="5" * 64)
    joined = TeacherIdentity.join([first, TeacherIdentity(model="swin_m", sha256="7" * 64, **said)])
    return put("identity.teacher", joined.model_dump(mode="json"))


SPELLED = "(written|writes them) in another way"
OTHER = "other teacher"
LABEL = "ofa[gamma=7.0]"
KINDS = {
    "a whole number for a number": (dict(change=put("identity.method.config.temperature", 1)), SPELLED),
    "true for a number": (dict(change=put("identity.method.config.weight", True)), "weight: .*number|" + SPELLED),
    "true for a number of the recipe": (dict(change=put("identity.recipe.evaluation.every", True)), "invalid recipe"),
    "a whole number in the recipe": (dict(change=put("identity.recipe.clip_grad", 5)), SPELLED),
    "minus zero": (dict(change=put("identity.recipe.schedule.min_lr", -0.0)), SPELLED),
    "zero for a neutral zero": (dict(change=put("identity.recipe.drop_path", 0)), "leaves numbers out or writes"),
    "an empty source": (dict(change=put("identity.student_source", "")), f"{SPELLED}.*student_source is empty"),
    "a source of a shipped network": (dict(change=put("identity.student_source", "a" * 64)), "its student vit_xs has"),
    "a source of a shipped teacher": (dict(change=put("identity.teacher.source", "a" * 64)), "its teacher resnet_m"),
    "no image left out": (dict(change=put("identity.dataset.skipped", 0)), f"{SPELLED}.*skipped is 0"),
    "images left out of whole data": (dict(change=put("identity.dataset.skipped", 3)), "says that 3 images were left"),
    "the recipe's image size told": (dict(change=put("identity.teacher.image_size", 64)), f"{SPELLED}.*image_size"),
    "the data's statistics told": (
        dict(change=put("identity.teacher.statistics", [[0.286] * 3, [0.353] * 3])),
        "fed with other input statistics",
    ),
    "the recipe's image size told of one of several": (
        dict(change=several(image_size=64)), f"{SPELLED}.*image_size of swin_m is that",
    ),
    "an empty source of one of several": (dict(change=several(source="")), f"{SPELLED}.*source of swin_m is empty"),
    "an empty version": (
        dict(change=also(put("identity.method.version", None), put("identity.method.source", ""))),
        f"{SPELLED}.*method.source is empty",
    ),
    "an alias as id": (dict(change=rename("tas"), method="fbt"), "tas is another name of fbt"),
    "another alias": (dict(change=rename("pat", "pat[weight=2]")), "pat is another name of fofa"),
    "an alias in capitals": (dict(change=rename("Tas"), method="fbt"), "Tas is another name of fbt"),
    "a label with a space": (dict(change=also(put("identity.seed", 5), put("label", "kd: "))), "are named kd: "),
    "a label with other numbers": (
        dict(change=also(put("identity.seed", 5), put("label", "fbt[gamma=1.00]")), method="fbt"),
        "their name is fbt",
    ),
    "a variant's name for the plain method": (
        dict(change=also(put("identity.seed", 5), put("label", "fbt:paper_form")), method="fbt"),
        "their name is fbt",
    ),
    "an outside method under another's label": (
        dict(change=also(rename("mine"), put("label", "fbt"), put("conditions.lanes", ["fbt"]))),
        "no name of mine",
    ),
    "an outside method": (dict(change=rename("mine"), accuracy=99.0), "mine is an outside method"),
    "a weak second scratch": (
        dict(
            change=also(put("identity.method.version", None), put("identity.method.source", "a" * 64)),
            method="scratch",
            accuracy=20.0,
        ),
        "duplicate seed",
    ),
    "a weak scratch of a fourth seed": (dict(change=put("identity.seed", 3), method="scratch", accuracy=20.0), None),
    "another precision told": (dict(change=put("identity.precision", "bf16"), accuracy=99.0), "above its teacher"),
    "other weights of the teacher": (dict(change=put("identity.teacher.sha256", "7" * 64), accuracy=80.0), OTHER),
    "other data": (dict(change=put("identity.dataset.fingerprint", "7" * 64)), "evaluated on other data"),
    "a student above its teacher": (
        dict(change=put("identity.seed", 5), accuracy=95.0),
        r"5.60 points above its teacher \(95.00, 89.40 %\)",
    ),
    "networks of a method that has none": (
        dict(change=also(put("identity.seed", 5), put("result.networks", {"assistant": 90.0}))),
        "has accuracies of further networks, and kd evaluates none",
    ),
    "a network beyond all bounds": (
        dict(change=also(put("identity.seed", 5), put("result.networks", {"assistant": 1e300})), method="fbt"),
        "networks.assistant = 1e.300 is no percentage",
    ),
    "names for classes that have some": (
        dict(change=also(put("identity.seed", 5), put("class_names", ["<b>"] * 10))),
        "names the classes of fashion_demo",
    ),
    "another recipe's name for the same numbers": (
        dict(change=also(put("identity.seed", 5), put("recipe_name", "demo_teacher"))),
        "its recipe is named demo_teacher and has the numbers of demo",
    ),
    "an advertisement as a version": (
        dict(change=also(put("identity.seed", 5), put("conditions.versions.torch", "2, see evil.example"))),
        "has no proper version of torch",
    ),
    "memory beyond all bounds": (
        dict(change=also(put("identity.seed", 5), put("conditions.peak_memory_mb", 1e300))),
        "beyond all bounds",
    ),
    "a student below what it claims of its teacher": (
        dict(
            change=also(
                put("identity.seed", 5), put("teacher.measured", 99.0), put("teacher.mismatch_allowed", True)
            ),
            accuracy=98.0,
        ),
        r"8.60 points above its teacher \(98.00, 89.40 %\)",
    ),
    "a teacher off its entry": (
        dict(
            change=also(
                put("identity.seed", 5), put("teacher.measured", 80.0), put("teacher.mismatch_allowed", True)
            ),
        ),
        "its teacher reached 80.00 % and is expected to have 89.40 %",
    ),
    "a top-5 of 100": (dict(change=also(put("identity.seed", 5), put("result.top5", 100.0))), "its top-5 is 100.00 %"),
    "from before the software": (
        dict(change=also(put("identity.seed", 5), put("conditions.finished", "2019-03-01T00:00:00+00:00"))),
        "finished on 2019-03-01, before there was any cakdbench",
    ),
    "a device's name": (dict(change=rename("mine"), folder="con"), "con: has a name that is not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_entry_is_told_and_moves_nothing(repository, honest, kind):
    arguments, reason = KINDS[kind]
    file = repository.forge(**arguments)
    report = repository.validate()
    told = [str(finding) for finding in report.findings if finding.file in (file, file.partition("/")[0])]
    assert reason is None or any(re.search(reason, text) for text in told), told
    assert {finding.file for finding in report.refused} <= {file, file.partition("/")[0]}, "an honest entry is blamed"
    board = repository.board()
    assert {label: board[label] for label in honest} == honest
    assert all(row[:2] == (None, None) and not any(cell[2] for cell in row[2:]) for row in
               (board[label] for label in board.keys() - honest.keys()))  # fmt: skip


def test_three_seeds_that_were_chosen_rank_nothing(repository, honest):
    for seed, chosen in enumerate((17, 44, 91)):
        for student in ("vit_xs", "mobilenet_s", "mixer_xs"):
            setting = put("identity.method.config.gamma", 7.0), put("label", LABEL), put("conditions.lanes", [LABEL])
            repository.forge(also(put("identity.seed", chosen), *setting), "ofa", student, seed, 85.0 + seed / 2)
    board = repository.board()
    row = board.pop(LABEL)
    assert row[:2] == (None, None) and not any(cell[2] for cell in row[2:])
    assert board == honest
    assert accept(repository.root, repository.validate(), "2026-12-01") == 9
    board = repository.board()
    row = board.pop(LABEL)
    assert row[:2] == (None, None) and not any(cell[2] for cell in row[2:])
    assert board == honest


def test_one_run_under_many_keys_counts_once(repository, honest):
    for value in (1, True):
        repository.forge(put("identity.method.config.temperature", value), accuracy=99.0 + value / 2)
    repository.forge(put("identity.dataset.skipped", 4), accuracy=99.0)
    assert repository.board() == honest


def test_a_copy_in_an_earlier_folder_blames_both_or_the_copy_alone(repository):
    change = also(rename("aaa"), put("identity.method.version", None), put("identity.method.source", "a" * 64))
    file = repository.forge(change, accuracy=None)
    original = f"kd/{repository.entry('kd').name}"
    refused = {finding.file for finding in repository.validate().refused}
    assert refused == {file}
    (repository.root / "status.toml").unlink()
    refused = {finding.file for finding in repository.validate().refused}
    assert refused == {file, original}


def test_a_copy_of_both_files_of_an_accepted_entry_takes_nothing_from_it(repository):
    original = repository.entry("kd")
    (repository.root / "aaa").mkdir()
    for path in (original, original.with_suffix(".npy")):
        shutil.copy(path, repository.root / "aaa")
    report = repository.validate()
    assert {finding.file for finding in report.refused} == {f"aaa/{original.name}"}
    assert f"kd/{original.name}" in {line.file for line in report.lines}


def test_a_folder_that_differs_in_capitals_blames_no_accepted_entry(repository, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(repository.root, base)
    file = repository.forge(put("identity.seed", 5), folder="KD")
    both = {file, file.replace(".json", ".npy")}
    assert {finding.file for finding in repository.validate().refused} == both
    assert {finding.file for finding in repository.validate(base=str(base)).refused} == both


def test_a_copy_with_one_prediction_flipped_is_noted_with_the_figure(repository):
    classes = np.load(repository.entry("kd").with_suffix(".npy"))
    classes[0] = (classes[0] + 1) % 10
    file = repository.forge(put("identity.seed", 7))
    (repository.root / file).with_suffix(".npy").write_bytes(npy_bytes(classes))
    told = [str(f) for f in repository.validate().findings if f.problem.doubt]
    assert len(told) == 1 and told[0].startswith(file) and "on 0.9995 of images" in told[0]


def test_claims_move_no_number_of_others(repository):
    """A new pair, another accuracy of the teacher, a row, a seed: none changes what stands of accepted runs."""
    before, page, costs = repository.board(), repository.page(), len(repository.evidence().settled)
    other = {"model": "mixer_m", "sha256": "5" * 64, "statistics": None, "image_size": None, "source": None}
    repository.forge(put("identity.teacher", other), accuracy=70.0)
    strange = also(put("teacher.measured", 95.0), put("teacher.mismatch_allowed", True), put("class_names", ["x"] * 10))
    setting = also(put("identity.method.config.gamma", 7.0), put("label", LABEL), put("conditions.versions.torch", "9"))
    for seed in (0, 1, 2):
        repository.forge(also(strange, setting), "ofa", seed=seed, accuracy=50.0 + seed)
    repository.forge(also(strange, setting, put("identity.seed", 17)), "ofa", accuracy=55.0)
    repository.forge(put("identity.seed", 4), "scratch", accuracy=20.0)
    after, changed = repository.board(), repository.page()
    assert {label: row[:5] for label, row in after.items() if label in before} == before
    said = [line for line in page if line.startswith(("| resnet_m", "| swin_m", "Precision:"))]
    assert len(said) == 7 and {*said} <= {*changed}
    assert any(line.startswith("| *teacher* | 89.40 | 86.05 | 89.40 |") for line in changed)
    assert len(repository.evidence().settled) == costs


def test_a_claimed_baseline_gives_no_gain_to_accepted_runs(repository):
    keys = {repository.entry("scratch", seed=seed).stem for seed in (1, 2)}
    listed = read_verdicts(repository.root)
    kept = tuple(verdict for verdict in listed.entries if verdict.key not in keys)
    write_verdicts(repository.root, Verdicts(entries=kept, teachers=listed.teachers))
    mean, gain, _ = repository.board()["kd"][2]
    first = [json.loads(repository.entry(name).read_text())["record"]["result"]["top1"] for name in ("kd", "scratch")]
    assert gain == pytest.approx(first[0] - first[1])
    mean, *_ = repository.board()["scratch"][2]
    assert mean == first[1]


def test_no_honest_entry_is_doubted(repository):
    report = repository.validate()
    assert not report.refused and not [line for line in report.lines if line.doubts]
    assert len(report.lines) == len(repository.keys()) and {line.status for line in report.lines} == {"re-scored"}


def test_a_flipped_copy_of_another_student_is_noted(repository):
    classes = np.load(repository.entry("ofa", "mixer_xs").with_suffix(".npy"))
    classes[0] = (classes[0] + 1) % 10
    file = repository.forge(put("identity.seed", 7))
    (repository.root / file).with_suffix(".npy").write_bytes(npy_bytes(classes))
    (told,) = [str(f) for f in repository.validate().findings if f.problem.doubt]
    assert told.startswith(file) and "ofa-mixer_xs" in told


def test_errors_that_are_no_other_runs_are_doubted(repository, honest):
    """Nine runs of a new row, right but for errors on any images: none is accepted unseen."""
    files = {
        repository.forge(
            also(put("identity.method.config.gamma", 7.0), put("label", LABEL), put("conditions.lanes", [LABEL])),
            *("ofa", student, seed, 84.0 + seed / 2 + place / 8),
            blind=True,
        )
        for place, student in enumerate(("vit_xs", "mobilenet_s", "mixer_xs"))
        for seed in (0, 1, 2)
    }
    report = repository.validate()
    assert not report.refused
    told = {f.file: re.search(r"student by more than (\S+) ", str(f)) for f in report.findings if f.problem.doubt}
    assert set(told) == files and all(float(figure[1]) < 0.3 for figure in told.values())
    assert accept(repository.root, report, "2026-12-01") == 0


def test_new_entries_however_many_do_not_outvote_the_base_on_a_teacher(repository, tmp_path):
    """No weights of this teacher are accepted yet; three entries of the base have it, and twelve of a request."""
    other = {"model": "mixer_m", "sha256": "5" * 64, "statistics": None, "image_size": None, "source": None}
    for seed in (0, 1, 2):
        repository.forge(put("identity.teacher", other), seed=seed, accuracy=70.0 + seed)
    base = tmp_path / "base"
    shutil.copytree(repository.root, base)
    files = {
        repository.forge(put("identity.teacher", other | {"sha256": "7" * 64}), method, student, seed, 60.0 + seed)
        for method, student in (("ofa", "vit_xs"), ("fbt", "vit_xs"), ("ofa", "mixer_xs"), ("fbt", "mixer_xs"))
        for seed in (0, 1, 2)
    }
    assert {finding.file for finding in repository.validate(base=str(base)).refused} == files


def test_entries_on_a_downloaded_teacher_wait_for_its_hash(repository, monkeypatch):
    other = {"model": "mixer_m", "sha256": "5" * 64, "statistics": None, "image_size": None, "source": None}
    entry = TeacherEntry(model="mixer_m", dataset="fashion_demo", url="https://example.org/w.pth", accuracy=89.4)
    facts = put("teacher.tolerance", entry.allowed), put("teacher.source", entry.source)
    for name, accuracy in (("kd", 70.0), ("ofa", 71.0)):
        repository.forge(also(put("identity.teacher", other), *facts), name, accuracy=accuracy)
    registry = {("mixer_m", "fashion_demo"): entry}
    monkeypatch.setattr("cakdbench.submissions.checks.teachers._registry", lambda: load_teachers() | registry)
    report = repository.validate()
    assert not report.refused and accept(repository.root, report, "2026-12-01") == 0
    registry["mixer_m", "fashion_demo"] = entry.model_copy(update={"sha256": "7" * 64})
    assert len(repository.validate().refused) >= 2
    registry["mixer_m", "fashion_demo"] = entry.model_copy(update={"sha256": "5" * 64})
    report = repository.validate()
    assert not report.refused and accept(repository.root, report, "2026-12-01") == 2


def test_a_training_with_changed_numbers_makes_no_weights_allowed(repository, honest):
    """The teacher's training, cut short, under the teacher's name; and a column of entries that it taught."""
    weak = "9" * 64
    numbers = json.loads(repository.entry("scratch", "resnet_m").read_text())["record"]["identity"]["recipe"]
    change = also(put("identity.recipe", numbers | {"clip_grad": 4.0}), put("weights_sha256", weak))
    training = repository.forge(change, "scratch", "resnet_m", accuracy=60.0)
    files = [
        repository.forge(put("identity.teacher.sha256", weak), method, student, seed, accuracy=61.0 + seed)
        for method in ("kd", "ofa", "fbt")
        for student in ("vit_xs", "mixer_xs")
        for seed in (0, 1, 2)
    ]
    report = repository.validate()
    assert {finding.file for finding in report.refused} >= set(files)
    assert all(
        "/" in finding.file and (finding.file in files or finding.file == training) for finding in report.refused
    )
    assert repository.board() == honest


def test_labels_that_come_with_the_results_rescore_nothing(repository):
    data = {"name": "cifar100", "fingerprint": "7" * 64, "skipped": None}
    files = [repository.forge(put("identity.dataset", data), seed=seed, accuracy=90.0) for seed in (0, 1, 2)]
    for labels in (np.arange(2000) % 3, np.repeat(np.arange(100), 100)):
        (repository.labels / f"cifar100-{'7' * 16}.npy").write_bytes(npy_bytes(labels))
        report = repository.validate()
        assert not [line for line in report.lines if line.file in files and line.rescored]
        assert accept(repository.root, report, "2026-12-01") == 0
        truth = Truth(repository.labels, trusted=True)
        assert truth.test_labels("cifar100", data["fingerprint"]) is None


def test_accepted_entries_cannot_be_worsened_or_deleted_unseen(repository):
    changed, deleted = repository.entry("kd"), repository.entry("kd", seed=1)
    changed.write_text(changed.read_text().replace('cakdbench"', 'somebody"', 1))
    deleted.unlink()
    deleted.with_suffix(".npy").unlink()
    told = [str(finding) for finding in repository.validate().refused]
    assert any(changed.stem in text and "was changed after" in text for text in told)
    assert any(deleted.stem in text and "is missing" in text for text in told)


def test_runs_that_taught_themselves_or_each_other_are_refused_and_stop_no_page(repository, honest):
    facts = {"measured": 89.4, "expected": None, "tolerance": 0.1, "source": "mine.pth", "standard": False}

    def teach(own, others):
        identity = {"model": "vit_m", "sha256": others, "statistics": None, "image_size": None, "source": None}
        return also(put("teacher", facts), put("identity.teacher", identity), put("weights_sha256", own))

    taught = ("1" * 64, "1" * 64), ("2" * 64, "3" * 64), ("3" * 64, "2" * 64)
    files = [repository.forge(teach(*each), seed=seed, accuracy=70.0 + seed) for seed, each in enumerate(taught)]
    told = {f.file: str(f) for f in repository.validate().refused if "leads back to its own weights" in str(f)}
    assert set(told) == set(files)
    assert repository.board() == honest
    assert experiment_board(load_experiment("tas_table9"), repository.evidence()).sections


def test_an_entry_of_an_impossible_recipe_is_one_line_of_damage(repository, honest):
    file = repository.forge(put("identity.recipe.init", 5))
    (damage,) = repository.evidence().damage
    assert file in damage and "invalid recipe" in damage
    assert repository.board() == honest


def test_statuses_that_cannot_be_read_are_not_written_anew(repository, tmp_path):
    path = repository.root / "status.toml"
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    before, report = path.read_bytes(), repository.validate()
    with pytest.raises(StoreError, match=r"status\.toml is malformed .*; nothing was written"):
        accept(repository.root, report, "2026-12-01")
    assert path.read_bytes() == before
    pages = tmp_path / "pages"
    with pytest.raises(StoreError, match=r"status\.toml is malformed"):
        leaderboard(store=tmp_path / "runs", results=repository.root, boards=pages)
    assert not pages.exists()
