"""Boards and states from a store on disk."""

import io
from types import SimpleNamespace

import pytest
from pages import main_table
from rich.console import Console
from synthetic import record, taught_by

from cakdbench.plan import Settings, make_plan
from cakdbench.reports.status import run_status, status_table
from cakdbench.reports.write import write_boards
from cakdbench.store import Store
from cakdbench.suites import Pair, PairSpec, suites

SPEC = PairSpec(Pair.parse("swin_t>resnet18@cifar100"), "ofa_cifar_cnn")
DATASET = SimpleNamespace(name="cifar100", fingerprint="f" * 64)


def fill(store, specs=(SPEC,), seeds=(0,), settings=()):
    """Finish the runs of scratch and kd; kd is a point better."""
    for cell in make_plan([], specs, seeds, Settings.parse(settings)).cells:
        identity = cell.identity(DATASET, taught_by(cell))
        folder = store.run(identity)
        assert folder.acquire()
        folder.open(identity)
        made = record(cell.label, top1=70.0 + (cell.label == "kd"))
        folder.finish(
            made.model_copy(update={"key": folder.key, "identity": identity, "recipe_name": cell.recipe.name})
        )
        folder.release()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, color_system=None)


def test_the_board_of_a_pair_is_written_and_shown(store, console, tmp_path):
    fill(store)
    write_boards(store, [SPEC], tmp_path / "boards", console)
    assert [path.name for path in (tmp_path / "boards").iterdir()] == ["cifar100.md"]
    page = (tmp_path / "boards/cifar100.md").read_text()
    assert page.startswith(f"# {suites()['cifar_all'].title}\n")
    assert "71.00 (+1.00)" in page and "71.00 (+1.00)" in console.file.getvalue()
    assert str(tmp_path / "boards/cifar100.md") in console.file.getvalue().replace("\n", "")


def test_writing_again_changes_no_byte(store, console, tmp_path):
    fill(store, seeds=(0, 1))
    path = tmp_path / "cifar100.md"
    write_boards(store, None, tmp_path, console)
    first = path.read_bytes()
    write_boards(store, [SPEC], tmp_path, console)
    assert path.read_bytes() == first


def test_by_default_every_board_with_a_run_is_written(store, console, tmp_path):
    write_boards(store, None, tmp_path / "boards", console)
    assert not (tmp_path / "boards").exists()
    fill(store)
    write_boards(store, None, tmp_path / "boards", console)
    assert (tmp_path / "boards/cifar100.md").exists()


def test_changed_settings_stay_out_of_the_table(store, console, tmp_path):
    fill(store, settings=["recipe.epochs=1"])
    write_boards(store, [SPEC], tmp_path, console)
    table, aside = (tmp_path / "cifar100.md").read_text().split("## Runs with changed settings")
    assert "70.00" not in table and "71.00" not in table
    assert aside.count("recipe.epochs = 1") == 2


def test_pairs_of_no_board_are_shown_and_not_written(store, console, tmp_path):
    free = PairSpec(Pair.parse("resnet18>resnet50@cifar100"), "ofa_cifar_cnn")
    fill(store, (free,))
    write_boards(store, [free], tmp_path / "boards", console)
    assert "71.00 (+1.00)" in console.file.getvalue()
    assert not (tmp_path / "boards").exists()


def test_a_damaged_record_is_named_and_the_rest_is_written(store, console, tmp_path):
    fill(store)
    (run,) = [run for run in store.runs() if run.key.startswith("kd")]
    (run.path / "record.json").write_text("{")
    write_boards(store, [SPEC], tmp_path, console)
    assert f"damaged file {run.path / 'record.json'}" in console.file.getvalue().replace("\n", "")
    assert "70.00" in (tmp_path / "cifar100.md").read_text()
    assert run_status(run).reason.startswith("damaged file")


def test_failed_runs_are_not_counted_but_have_a_state(store, console, tmp_path):
    fill(store)
    (cell,) = make_plan([], [SPEC], [1], Settings()).cells[1:]
    identity = cell.identity(DATASET, taught_by(cell))
    folder = store.run(identity)
    assert folder.acquire()
    folder.open(identity)
    folder.fail("loss 'kd' is nan at step 7")
    folder.release()
    write_boards(store, [SPEC], tmp_path, console)
    assert main_table((tmp_path / "cifar100.md").read_text())["KD"] == {
        "swin_t → resnet18": "71.00 (+1.00)",
        "average gain": "+1.00",
        "seeds": "1",
    }
    console.print(status_table(store))
    text = console.file.getvalue()
    assert f"{folder.key}: loss 'kd' is nan at step 7" in text.replace("\n", "")
    states = [run_status(run) for run in store.runs()]
    assert sorted(s.state for s in states) == ["done", "done", "failed"]
    done = next(s for s in states if s.state == "done" and s.label == "kd")
    assert (done.pair, done.top1, done.progress) == (str(SPEC.pair), 71.0, "300/300 epochs")
