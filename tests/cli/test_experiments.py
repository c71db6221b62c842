"""`cakdbench run --experiment`: two tables of papers from end to end, on small models and data."""

import pytest

from cakdbench.reports import pages
from cakdbench.store import Store
from tests.cli_lab import Shell
from tests.reports.pages import tables

EPOCH = ("--set", "recipe.epochs=1")


@pytest.fixture(scope="module")
def shell(tiny, tmp_path_factory) -> Shell:
    return Shell(tiny, tmp_path_factory.mktemp("experiments"))


def run(shell, name, *arguments):
    places = ["--store", str(shell.store), "--boards", str(shell.boards), "--cpu", "--jobs", "1", "--yes"]
    return shell("run", "--experiment", name, "--tiny", *places, *arguments)


def measured(shell, name):
    """The first table of the page: the row's label to its cells by column, each as measured and printed."""
    head, *rows = tables((shell.boards / f"papers/{name}-tiny.md").read_text())[0]
    return {row[1]: dict(zip(head[2:], (cell.split() for cell in row[2:]), strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("name", "column", "student", "printed"),
    [
        (
            "fbt_table4",
            "convnext_t → swin_p, cifar100\ntop-1",
            "swin_xs",
            {"fitnet": 24.06, "fitnet:final_stage": 65.17, "fitnet:pooled": 76.79, "fitnet:pooled_nce": 78.01},
        ),
        pytest.param(
            *("fofa_table5", "convnext_t → deit_t, cifar100\ntop-1", "vit_xs", {"fitnet": 60.71, "fofa": 79.59}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_table_is_one_command(shell, name, column, student, printed):
    code, text = run(shell, name, *EPOCH)
    assert code == 0 and f"papers/{name}-tiny.md" in text, text
    table, records = measured(shell, name), Store(shell.store).records()[0]
    ours = {r.label: r.result.top1 for r in records if (r.identity.student, r.recipe_name) == (student, "tiny")}
    assert ours.keys() - {"scratch"} == printed.keys()
    for label, value in printed.items():
        own, theirs, _ = table[label][column]
        assert float(own) == pytest.approx(ours[label]) and float(theirs) == value


@pytest.mark.slow
def test_the_chains_of_tas_table_9_stand_in_their_rows(shell):
    code, text = run(shell, "tas_table9", *EPOCH)
    assert code == 0, text
    head, *rows = tables((shell.boards / "papers/tas_table9-tiny.md").read_text())[0]
    cells = {row[0][:3]: row[-1].split() for row in rows}
    assert [cells[f"({row})"][1] for row in "ABCDE"] == ["78.53", "79.26", "79.28", "80.07", "81.24"]
    records = Store(shell.store).records()[0]
    made = {r.weights_sha256: (r.label, r.identity.student) for r in records}
    ours = {(r.label, made.get(_before(r))): r.result.top1 for r in records}
    for row, label, first in (("A", "kd", "resnet_m"), ("D", "kd", "resnet_s"), ("E", "fbt:no_infonce", "resnet_s")):
        assert float(cells[f"({row})"][0]) == pytest.approx(ours[label, (label, first)])


def _before(record):
    """The weights that a run started from, or else those that taught it."""
    teacher = record.identity.teacher
    return record.identity.recipe.get("init", "").removeprefix("sha256:") or (teacher and teacher.sha256)


def test_the_same_command_again_trains_nothing(shell):
    run(shell, "fbt_table4", *EPOCH)
    before = {path: path.stat().st_mtime_ns for path in shell.store.glob("*/record.json")}
    page = (shell.boards / "papers/fbt_table4-tiny.md").read_bytes()
    code, _ = run(shell, "fbt_table4", *EPOCH)
    assert code == 0 and {path: path.stat().st_mtime_ns for path in shell.store.glob("*/record.json")} == before
    assert (shell.boards / "papers/fbt_table4-tiny.md").read_bytes() == page


def test_a_table_of_costs_trains_nothing(shell):
    code, text = run(shell, "tas_table12")
    page = (shell.boards / "papers/tas_table12.md").read_text()
    assert code == 0 and "Nothing is trained" in page, text
    assert len(tables(page)[0]) == 1 + 3 * 3 and "✗ computed 0.08" in page


def test_the_plan_of_the_whole_table_is_shown(shell):
    code, text = shell("run", "--experiment", "tas_table9", *shell.places(), "--cpu", "--dry-run")
    assert code == 0 and "fbt:no_infonce" in text and "swin_t>resnet18@cifar100" in text
    assert "missing before it can start" in text


def test_experiments_are_listed(shell):
    code, text = shell("list", "experiments")
    assert code == 0 and "tas_table4" in text and "TAS Table 4: what each part of the method is worth" in text


@pytest.mark.parametrize("words", [[], ["--pairs", "demo", "--experiment", "sakd"], ["--pairs", "demo", "--tiny"]])
def test_pairs_or_an_experiment_have_to_be_named(shell, words):
    code, text = shell("run", *words, *shell.places())
    assert code == 2 and "--pairs with --methods, or --experiment" in text


def test_an_unknown_experiment_is_named_with_the_nearest(shell):
    code, text = run(shell, "tas_table7")
    assert code == 2 and "tas_table7" in text and "tas_table" in text.replace("tas_table7", "")


def test_the_pages_alone_are_written(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "experiment_names", lambda: ["tas_table8", "tas_table11"])  # all of them take a while
    code, text = shell("leaderboard", "--experiments", "--store", str(shell.store), "--boards", str(tmp_path))
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert code == 0 and written == ["papers/tas_table11.md", "papers/tas_table8.md"], text
    code, text = shell("leaderboard", "--experiments", "--check", "--boards", str(tmp_path))
    assert code == 2 and "--check looks at all pages" in text
