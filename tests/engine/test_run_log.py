"""The files that a run writes while it goes, and what the commands make of them."""

import csv
import re
import time
from types import SimpleNamespace

import pytest

from cakdbench.engine.run_log import ROW_EVERY, Pace, RunLog, log_file, read_pace, read_rows
from cakdbench.records import Epoch
from cakdbench.store import Store
from cakdbench.train.events import GroupView
from cakdbench.utils.errors import StoreError
from tests.cli_lab import PAIR, Shell

METHODS = "--methods", "kd"


def untimed(path):
    """The rows but for the speeds."""
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in read_rows(path)]


def runs(shell):
    return {run.label(): run for run in Store(shell.store).runs() if run.identity().teacher or run.label() == "scratch"}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A grid that ran undisturbed."""
    shell = Shell(tiny, tmp_path_factory.mktemp("whole"))
    assert shell.run(*METHODS)[0] == 0
    return shell


def test_a_run_leaves_its_losses_as_its_record_has_them(whole):
    for label, run in runs(whole).items():
        rows, record = read_rows(run.path / "losses.csv"), run.record()
        assert [(row["epoch"], row["step"]) for row in rows] == [("0", "1"), ("0", "4"), ("1", "5"), ("1", "8")]
        ends = [row for row in rows if row["top1"]]
        for row, line in zip(ends, record.history, strict=True):
            numbers = {name: float(row[name]) for name in ("lr", "train_top1", "top1")}
            losses = {name: float(row[f"loss_{name}"]) for name in line.losses}
            assert (numbers | losses) == {"lr": line.lr, "train_top1": line.train_top1, "top1": line.top1} | line.losses
            assert float(row["images_per_second"]) > 0
        text = log_file(run.path).read_text().splitlines()
        assert f"start: {label} on" in text[0] and text[-1].endswith(f"done: test {record.result.top1:.2f} %")
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ step \d/8: ", line) for line in text)


def test_log_prints_the_log_by_key_start_of_the_key_and_folder(whole):
    run = runs(whole)["kd"]
    for name in (run.key, run.key[:4], str(run.path)):
        code, text = whole("log", name, "--follow", "--store", str(whole.store))
        assert code == 0 and text == log_file(run.path).read_text()
    for name, words in (("kdd", "unknown run"), ("", "is the start of")):
        code, text = whole("log", name, "--store", str(whole.store))
        assert code == 2 and words in text and len(text.splitlines()) == 1
    log_file(run.path).rename(run.path / "aside")
    assert "has no log" in whole("log", "kd", "--store", str(whole.store))[1]
    (run.path / "aside").rename(log_file(run.path))


def test_a_killed_run_goes_on_without_lost_or_repeated_lines(whole, shell, tiny):
    """A kill leaves lines of steps that no checkpoint holds; the last line may be half written."""
    program = shell.program(*METHODS, "--checkpoint-seconds", "1e9")
    deadline = time.monotonic() + 120
    while not any("epoch 2/2" in path.read_text() for path in shell.store.glob("kd-*/log.txt")):
        assert time.monotonic() < deadline and program.process.is_alive()
        time.sleep(0.02)
    program.process.kill()
    program.finish()
    run = runs(shell)["kd"]
    if not run.is_done:
        with open(run.path / "losses.csv", "a") as file:
            file.write("1,9")
        assert "of 8" in shell("status", "--store", str(shell.store))[1]
    assert shell.run(*METHODS)[0] == 0
    for label, first in runs(whole).items():
        again = runs(shell)[label]
        assert untimed(again.path / "losses.csv") == untimed(first.path / "losses.csv")
        steps = re.findall(r" (step \d/8: epoch .*?%);", log_file(again.path).read_text())
        assert steps == re.findall(r" (step \d/8: epoch .*?%);", log_file(first.path).read_text())


def test_status_shows_recipe_step_speed_and_time_left_of_what_runs(whole):
    run = runs(whole)["kd"]
    record, log = run.path / "record.json", log_file(run.path)
    complete = log.read_text()
    record.rename(run.path / "aside")
    log.write_text("".join(complete.splitlines(keepends=True)[:4]))
    assert read_pace(run.path).step == 5
    try:
        assert run.acquire()
        code, text = whole("status", "--store", str(whole.store))
    finally:
        run.release()
        (run.path / "aside").rename(record)
        log.write_text(complete)
    (row,) = [line for line in text.splitlines() if "│ running" in line]
    assert code == 0 and re.search(r"│ running .*step 5/8, [\d,]+ images/s, \d+ s left.*│ demo +│", row)
    assert "demo_teacher" in text and "2/2 epochs" in text


def test_run_writes_the_page_of_a_suite_of_ones_own(whole):
    """Straight after its runs, which are those of before; on a dataset that has to be opened for its facts."""
    path = whole.work / "my.toml"
    path.write_text(f'board = "mine"\n[suites.a]\ntitle = "My pairs"\nrecipe = "demo"\npairs = ["{PAIR}"]\n')
    arguments = [word for word in whole.command(*METHODS, pairs=str(path)) if word not in ("--recipe", "demo")]
    code, text = whole(*arguments)
    assert code == 0 and "written:" in text
    page = (whole.boards / "mine.md").read_text()
    assert page.startswith("# My pairs\n") and page.count("recipe.epochs = 2") == 2  # both are of changed settings
    assert "My pairs" not in (whole.boards / "other.md").read_text()  # of the run without a suite


def line(step, per_epoch, **losses):
    return Epoch(epoch=(step - 1) // per_epoch, lr=0.1, losses=losses, train_top1=50.0)


def lane_at(step, per_epoch, **losses):
    so_far = lambda: line(step, per_epoch, **losses)  # noqa: E731
    return SimpleNamespace(step=step, images_per_second=12.34, epoch_so_far=so_far)


def test_rows_are_some_steps_apart_and_a_loss_that_comes_later_gets_a_column(tmp_path):
    view = GroupView("t", "demo", 0, epochs=2, steps_per_epoch=50, lanes=[])
    log = RunLog(tmp_path, 0, view, "x")
    for step in range(1, 101):
        late = {"late": 2.0} if step > 60 else {}
        view.step, ends = step, step % 50 == 0
        log.update(lane_at(step, 50, kd=1.0, **late), view, line(step, 50, kd=1.0, **late) if ends else None)
    rows = read_rows(tmp_path / "losses.csv")
    steps = [*range(1, 50, ROW_EVERY), 50]
    assert [int(row["step"]) for row in rows] == [*steps, *(50 + step for step in steps)]
    assert [row["loss_late"] for row in rows] == ["" if int(row["step"]) <= 60 else "2.0" for row in rows]
    assert len(list(csv.reader(open(tmp_path / "losses.csv")))[0]) == 9


@pytest.mark.parametrize("step", [0, 1, 20, 21, 99, 100])
def test_lines_after_the_checkpoint_are_dropped(tmp_path, step):
    view = GroupView("t", "demo", 0, epochs=2, steps_per_epoch=50, lanes=[], step=1)
    log = RunLog(tmp_path, 0, view, "x")
    for made in range(1, 101):
        log.update(lane_at(made, 50, kd=1.0), view)
    log.say("failed:\nloss 'kd' is nan")
    RunLog(tmp_path, step, view, "x")
    assert all(int(row["step"]) <= step for row in read_rows(tmp_path / "losses.csv"))
    text = log_file(tmp_path).read_text()
    assert ("start: x" in text, "goes on" in text) == ((True, step > 0))
    assert text.count("start: x") == 1 and ("failed" in text) == (step == 100)
    assert read_pace(tmp_path) == Pace(step, 100)


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    view = GroupView("t", "demo", 0, epochs=2, steps_per_epoch=50, lanes=[])
    log = RunLog(tmp_path, 0, view, "x")
    log.text.unlink()
    log.text.mkdir()
    with pytest.raises(StoreError, match="cannot write .*log.txt"):
        log.say("y")
