"""`validate --base`: what was changed or deleted is named, what is as it was is not checked again."""

import subprocess

import pytest

from cakdbench.submissions import examine
from cakdbench.submissions.base import base_folder
from cakdbench.submissions.examine import Crew
from cakdbench.utils.errors import UsageError
from tests.submissions.repository import Repository
from tests.submissions.test_standing import put


@pytest.fixture
def base(tmp_path) -> Repository:
    return Repository(tmp_path / "base")


@pytest.fixture
def request_(tmp_path) -> Repository:
    return Repository(tmp_path / "request")


def refusals(report) -> list[str]:
    return [str(finding) for finding in report.refused]


def test_an_unchanged_folder_has_nothing_to_check(base, request_):
    report = request_.validate(base=str(base.root))
    assert report.findings == () and report.lines == () and report.unchanged == len(request_.keys())


def test_changed_and_deleted_entries_are_named_accepted_or_not(base, request_):
    changed, deleted, other = (base.entry("kd", seed=seed) for seed in (0, 1, 2))
    (base.root / "status.toml").unlink()
    (request_.root / "status.toml").unlink()
    path = request_.root / "kd" / changed.name
    path.write_text(path.read_text().replace('cakdbench"', 'somebody"'))
    for suffix in (".json", ".npy"):
        (request_.root / "kd" / deleted.name).with_suffix(suffix).unlink()
    predictions = request_.root / "kd" / other.with_suffix(".npy").name
    predictions.write_bytes(predictions.read_bytes()[:-2] + b"\0\0")
    told = refusals(request_.validate(base=str(base.root)))
    assert any(text.startswith(f"kd/{changed.name}: is in the base and was changed") for text in told)
    assert any(text.startswith(f"kd/{deleted.name}: is in the base and was deleted") for text in told)
    assert any(text.startswith(f"kd/{predictions.name}: is in the base and was changed") for text in told)


def test_a_status_of_ones_own_is_refused_and_not_believed(base, request_):
    (base.root / "status.toml").unlink()
    file = request_.forge(put("identity.seed", 8))
    report = request_.validate(base=str(base.root))
    assert any(text.startswith("status.toml: is not that of the base") for text in refusals(report))
    assert [(line.file, line.status) for line in report.lines] == [(file, "claimed")]


def test_a_newcomer_is_compared_with_the_base_and_is_to_blame(base, request_):
    (base.root / "status.toml").unlink()
    (request_.root / "status.toml").unlink()
    file = request_.forge(put("identity.seed", 8), accuracy=None)
    report = request_.validate(base=str(base.root))
    assert {finding.file for finding in report.refused} == {file}
    assert any("copied run: it has the weights of kd/" in text for text in refusals(report))


def test_a_base_may_be_a_revision_of_git(base):
    git = ["git", "-C", str(base.root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q", str(base.root.parent)], ["add", "."], ["commit", "-q", "-m", "results"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    assert base.validate(base="HEAD").unchanged == len(base.keys())
    path = base.entry("ofa")
    path.unlink()
    path.with_suffix(".npy").unlink()
    assert any(
        f"ofa/{path.name}: is in the base and was deleted" in text for text in refusals(base.validate(base="HEAD"))
    )


@pytest.mark.parametrize("name", ["nowhere", "--output=/tmp/evil", ""])
def test_what_is_no_base_is_an_error(base, name):
    with (
        pytest.raises(UsageError, match="--base: name a results folder, or a revision of git"),
        base_folder(name, base.root),
    ):
        pass


def test_several_processes_find_what_one_finds(request_, monkeypatch):
    monkeypatch.setattr(examine, "WORTH_IT", 2)
    request_.forge(put("identity.seed", 8))
    request_.forge(put("identity.recipe.clip_grad", 5))
    assert request_.validate(crew=Crew(jobs=2)) == request_.validate()
