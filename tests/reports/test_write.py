"""Boards and states from a store on disk."""

import io
import shutil
from types import SimpleNamespace

import pytest
from rich.console import Console

from cakdbench.cli.status import print_status, run_status
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec, resolve_pairs, suites
from cakdbench.reports.pages import _strays, board_names, check_boards, write_boards
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from cakdbench.utils.errors import UsageError
from tests.cli_lab import Shell
from tests.reports.pages import main_table
from tests.reports.synthetic import record, taught_by

SPEC = PairSpec(Pair.parse("swin_t>resnet18@cifar100"), "ofa_cifar_cnn")
DATASET = SimpleNamespace(name="cifar100", fingerprint="f" * 64, skipped=None)


def fill(store, specs=(SPEC,), seeds=(0,), settings=(), gain=1.0):
    """Finish the runs of scratch and kd; kd is `gain` points better."""
    for cell in make_plan([], specs, seeds, Settings.parse(settings)).cells:
        dataset = SimpleNamespace(name=cell.pair.dataset, fingerprint=DATASET.fingerprint, skipped=None)
        identity = cell.identity(dataset, taught_by(cell))
        folder = store.run(identity)
        assert folder.acquire()
        folder.open(identity, cell.label, cell.recipe.name)
        made = record(cell.label, top1=70.0 + gain * (cell.label == "kd"))
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
    write_boards(Evidence(store, None), [SPEC], tmp_path / "boards", console)
    assert [path.name for path in (tmp_path / "boards").glob("*.*")] == ["cifar100.md"]
    page = (tmp_path / "boards/cifar100.md").read_text()
    assert page.startswith(f"# {suites()['cifar_all'].title}\n")
    assert "71.00 (+1.00)" in page and "71.00 (+1.00)" in console.file.getvalue()
    for plot in (tmp_path / "boards/plots").iterdir():
        assert f"](plots/{plot.name})" in page
    assert str(tmp_path / "boards/cifar100.md") in console.file.getvalue().replace("\n", "")


def test_writing_again_changes_no_byte(store, console, tmp_path):
    fill(store, seeds=(0, 1))
    write_boards(Evidence(store, None), [SPEC], tmp_path / "boards", console)
    first = {path: path.read_bytes() for path in (tmp_path / "boards").rglob("*.*")}
    write_boards(Evidence(store, None), [SPEC], tmp_path / "boards", console)
    assert {path: path.read_bytes() for path in (tmp_path / "boards").rglob("*.*")} == first and len(first) > 1


def test_every_format_is_a_file_of_its_own(store, console, tmp_path):
    fill(store)
    write_boards(Evidence(store, None), [SPEC], tmp_path, console, formats=["html", "csv", "tex"])
    assert sorted(path.name for path in tmp_path.glob("cifar100.*")) == [
        "cifar100.csv",
        "cifar100.html",
        "cifar100.tex",
    ]


def test_boards_with_printed_numbers_and_boards_with_runs_are_those_written_by_default(store):
    printed = ["cifar100", "imagenet1k", "pcagl", "sakd"]
    assert sorted(board_names(Evidence(store, None), None)) == printed
    fill(store, (PairSpec(Pair.parse("resnet_m>vit_xs@fashion_demo"), "demo"),))
    assert sorted(board_names(Evidence(store, None), None)) == sorted([*printed, "demo"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store and its boards."""
    place = tmp_path_factory.mktemp("made")
    fill(Store(place / "runs"), seeds=(0, 1))
    write_boards(Evidence(Store(place / "runs"), None), [SPEC], place / "boards", Console(file=io.StringIO()))
    return place


class TestCheck:
    @pytest.fixture
    def written(self, made, store, tmp_path):
        for name in ("runs", "boards"):
            shutil.copytree(made / name, tmp_path / name)
        return tmp_path / "boards"

    def told(self, store, folder):
        console = Console(file=io.StringIO(), width=200, color_system=None)
        fresh = check_boards(Evidence(store, None), [SPEC], folder, console)
        return fresh, console.file.getvalue()

    def test_what_was_just_written_is_current(self, store, written):
        assert self.told(store, written) == (True, "")

    def test_a_page_changed_by_hand_is_stale_and_shown_as_a_diff(self, store, written):
        page = written / "cifar100.md"
        page.write_text(page.read_text().replace("71.00 ± 0.00 (+1.00)", "91.00 ± 0.00 (+21.00)"))
        fresh, text = self.told(store, written)
        assert not fresh and "-| KD" in text and "+| KD" in text and "91.00" in text

    def test_a_missing_page_and_a_missing_plot_are_named(self, store, written):
        plot = next((written / "plots").iterdir())
        plot.unlink()
        (written / "cifar100.md").unlink()
        fresh, text = self.told(store, written)
        assert not fresh
        assert "cifar100.md: missing" in text and f"plots/{plot.name}: missing" in text

    def test_plots_are_judged_by_their_numbers_not_their_bytes(self, store, written):
        for plot in (written / "plots").iterdir():
            plot.write_text(plot.read_text() + "<!-- another version of matplotlib -->")
        assert self.told(store, written)[0]
        fill(store, seeds=(2,), gain=4.0)
        fresh, text = self.told(store, written)
        assert not fresh and "drawn from other numbers" in text

    def test_a_page_that_nothing_generates_is_named_but_not_those_kept_by_hand(self, written):
        for name in ("RULES.md", "old.md", "plots/old.svg"):
            (written / name).parent.mkdir(exist_ok=True)
            (written / name).write_text("x")
        made = [path.relative_to(written).as_posix() for path in written.rglob("cifar100*")]
        assert list(_strays(made, written)) == [
            "old.md: nothing generates this; delete it",
            "plots/old.svg: nothing generates this; delete it",
        ]

    def test_a_damaged_record_is_no_current_board(self, store, written, console):
        next(store.root.glob("kd-*/record.json")).write_text("{")
        assert not check_boards(Evidence(store, None), [SPEC], written, console)
        assert "damaged file" in console.file.getvalue()


def test_changed_settings_stay_out_of_the_table(store, console, tmp_path):
    fill(store, settings=["recipe.epochs=1"])
    write_boards(Evidence(store, None), [SPEC], tmp_path, console)
    table, aside = (tmp_path / "cifar100.md").read_text().split("## Runs with changed settings")
    assert "70.00" not in table and "71.00" not in table
    assert aside.count("recipe.epochs = 1") == 2


def test_pairs_of_no_board_have_a_page_too(store, console, tmp_path):
    free = PairSpec(Pair.parse("resnet18>resnet50@cifar100"), "ofa_cifar_cnn")
    fill(store, (free,))
    write_boards(Evidence(store, None), [free], tmp_path / "boards", console)
    assert "71.00 (+1.00)" in console.file.getvalue()
    assert [path.name for path in (tmp_path / "boards").glob("*.*")] == ["other.md"]
    assert "71.00 (+1.00)" in (tmp_path / "boards/other.md").read_text()


OWN = """
board = "{board}"
board_title = "My suite"
[suites.a]
title = "A"
recipe = "mine.toml"
pairs = ["resnet18>resnet50@cifar100"]
[suites.b]
title = "B"
recipe = "ofa_cifar_cnn"
pairs = ["swin_t>resnet18@cifar100"]
"""


def own_file(folder, board="mine"):
    (folder / "mine.toml").write_text('extends = "ofa_cifar_cnn"\ntitle = "Mine"\nsource = "me"\nepochs = 7\n')
    (folder / "my.toml").write_text(OWN.format(board=board))
    return str(folder / "my.toml")


def test_a_suite_of_ones_own_has_a_page_in_every_format(store, tmp_path):
    """A pair that a suite of cakdbench has too (the last) is on one's own board alone."""
    pairs = own_file(tmp_path)
    first, last = resolve_pairs(pairs)
    fill(store, [first])
    fill(store, [last], seeds=(0, 1))
    folder, shell = tmp_path / "boards", Shell(tmp_path, tmp_path)
    words = "leaderboard", "--pairs", pairs, "--store", str(store.root), "--boards", str(folder)
    code, text = shell(*words, "--formats", "md,html,csv,tex")
    assert code == 0, text
    assert sorted(path.name for path in folder.glob("*.*")) == [f"mine.{end}" for end in ("csv", "html", "md", "tex")]
    for path in folder.glob("*.*"):
        assert "My suite" in (page := path.read_text()) or path.suffix == ".csv"
        assert all(part in page for part in ("71.00", "resnet50", "resnet18")), path
    table = main_table((folder / "mine.md").read_text())["KD"]
    assert [table[pair] for pair in table if "→" in pair] == ["71.00 (+1.00) n=1", "71.00 ± 0.00 (+1.00) n=2"]
    assert "--recipe mine.toml" in (folder / "mine.md").read_text()  # as it is named beside the file
    shutil.rmtree(folder / "plots")
    assert shell(*words, "--check")[0] == 1  # the runs are in no results folder


@pytest.mark.parametrize("board", ["demo", "Demo", "costs", "README", "../mine", "", "a/b"])
def test_a_board_of_ones_own_takes_no_other_page(tmp_path, board):
    with pytest.raises(UsageError, match="board:"):
        resolve_pairs(own_file(tmp_path, board))


def test_a_damaged_record_is_named_and_the_rest_is_written(store, console, tmp_path):
    fill(store)
    (run,) = [run for run in store.runs() if run.key.startswith("kd")]
    (run.path / "record.json").write_text("{")
    write_boards(Evidence(store, None), [SPEC], tmp_path, console)
    assert f"damaged file {run.path / 'record.json'}" in console.file.getvalue().replace("\n", "")
    assert "70.00" in (tmp_path / "cifar100.md").read_text()
    assert run_status(run, store).reason.startswith("damaged file")


def test_failed_runs_are_not_counted_but_have_a_state(store, console, tmp_path):
    fill(store)
    (cell,) = make_plan([], [SPEC], [1], Settings()).cells[1:]
    identity = cell.identity(DATASET, taught_by(cell))
    folder = store.run(identity)
    assert folder.acquire()
    folder.open(identity, cell.label, cell.recipe.name)
    folder.fail("loss 'kd' is nan at step 7")
    folder.release()
    write_boards(Evidence(store, None), [SPEC], tmp_path, console)
    row = main_table((tmp_path / "cifar100.md").read_text())["KD"]
    assert (row["swin_t → resnet18"], row["vit_s → resnet18"], row["seeds"]) == (
        "71.00 (+1.00)\n78.74 FST",
        "– 77.26 FST",
        "1",
    )
    assert row["average gain"] == "+1.00 (1 of 12 pairs)\n+3.12 S!T!, +3.17 F"
    print_status(console, store)
    text = console.file.getvalue()
    assert f"{folder.key}: loss 'kd' is nan at step 7" in text.replace("\n", "")
    states = [run_status(run, store) for run in store.runs()]
    assert sorted(s.state for s in states) == ["done", "done", "failed"]
    done = next(s for s in states if s.state == "done" and s.label == "kd")
    assert (done.pair, done.top1, done.progress) == (str(SPEC.pair), 71.0, "300/300 epochs")
