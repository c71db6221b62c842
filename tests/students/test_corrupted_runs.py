"""Runs whose recipe asks for corruptions: records, frames and commands, against tests of the finished runs."""

import contextlib
import json

import pandas as pd
import pytest

import cakdbench
from cakdbench.data.corruptions import corrupt
from cakdbench.engine.run_log import log_file
from cakdbench.records import Corrupted, Result
from cakdbench.store import Store
from cakdbench.students.evaluate import evaluate_students
from cakdbench.students.student import load_student
from cakdbench.utils.corruptions import parse_corruptions
from cakdbench.utils.errors import UsageError
from tests.cli_lab import SHORT, Shell

NAMES = ("gaussian_noise=0.38", "shot_noise=30")
NOISY = (
    *SHORT,
    *("recipe.epochs=1", "teacher.epochs=1", "recipe.ema_decay=0.5"),
    "recipe.evaluation.corruptions=shot_noise=30,gaussian_noise:5",
)


def train(shell: Shell, *more: str) -> tuple[int, str]:
    return shell.run("--methods", "kd", "--keep", "ema", *more, settings=NOISY)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Shell:
    shell = Shell(tiny, tmp_path_factory.mktemp("noisy"))
    code, text = train(shell)
    assert code == 0 and all(f"testing under {name}" in text for name in NAMES), text
    return shell


def students(shell: Shell, ema: bool = False):
    """The students of the group of two lanes; their teacher's training is left out."""
    runs = [run for run in Store(shell.store).runs() if run.identity().student == "vit_xs"]
    assert len(runs) == 2
    return [load_student(run, ema, shell.data) for run in runs]


def evaluated(shell: Shell, ema: bool = False) -> pd.DataFrame:
    frame = evaluate_students(students(shell, ema), parse_corruptions(NAMES), data_dir=shell.data)
    return frame[frame["corruption"] != "none"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_record_has_what_evaluate_finds_of_the_finished_run(trained, shell, precision):
    if precision == "bf16":
        assert train(shell, "--precision", "bf16")[0] == 0
    else:
        shell = trained
    clean = evaluate_students(students(shell), data_dir=shell.data)
    assert clean["top1"].tolist() == [student.record.result.top1 for student in students(shell)]
    plain, averaged = evaluated(shell), evaluated(shell, ema=True)
    made = [each for student in students(shell) for each in student.record.result.corruptions]
    assert [str(each.corruption) for each in made] == 2 * list(NAMES)
    assert [(each.kind, each.strength, each.top1, each.top5) for each in made] == list(
        plain[["corruption", "strength", "top1", "top5"]].itertuples(index=False, name=None)
    )
    assert [each.ema_top1 for each in made] == averaged["top1"].tolist()


def test_a_training_that_dies_between_is_taken_up_without_a_loss(trained, shell, monkeypatch):
    def dies(corruption, *arguments):
        if str(corruption) == NAMES[1]:
            raise RuntimeError("no power")
        return corrupt(corruption, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("cakdbench.train.trainer.corrupt", dies)
        with contextlib.suppress(RuntimeError):
            assert train(shell)[0] != 0
    assert not any(run.is_done for run in Store(shell.store).runs() if run.identity().student == "vit_xs")
    code, text = train(shell)
    assert code == 0 and "epoch 1/1" not in text, text
    results = [[student.record.result for student in students(each)] for each in (shell, trained)]
    assert results[0] == results[1]


def test_frames_have_a_column_or_a_row_for_each(trained):
    runs = cakdbench.load_results(trained.store, data_dir=trained.data)
    frame = cakdbench.robustness(runs)
    expected = evaluated(trained).sort_values("key", kind="stable").reset_index(drop=True)
    for column in ("key", "method", "seed", "corruption", "strength", "top1", "drop", "top5"):
        assert frame[column].tolist() == expected[column].tolist(), column
    assert frame["severity"].dropna().tolist() == [5, 5] and frame["ema_top1"].notna().all()
    wide = runs.set_index("key")
    for row in frame.itertuples():
        assert wide.loc[row.key, f"top1_{row.corruption}={row.strength:g}"] == row.top1
    teacher = runs[runs["student"] == "resnet_m"]
    assert len(teacher) == 1 and teacher[f"top1_{NAMES[0]}"].isna().all()
    assert cakdbench.robustness(teacher).empty and list(cakdbench.robustness(teacher)) == list(frame)
    with pytest.raises(UsageError, match="no column path"):
        cakdbench.robustness(runs.drop(columns="path"))


def test_commands_name_them(trained):
    run = next(run for run in Store(trained.store).runs() if run.key.startswith("kd-"))
    first, second = run.record().result.corruptions
    told = f"; {NAMES[0]} {first.top1:.2f} %; {NAMES[1]} {second.top1:.2f} %"
    assert log_file(run.path).read_text().splitlines()[-1].endswith(told)
    places = "--data-dir", str(trained.data)
    code, text = trained("explain-run", run.key, "--store", str(trained.store), *places)
    assert code == 0 and f"top1_{NAMES[0]}" in text and "recipe.evaluation.corruptions" in text
    results = "results", str(trained.store), *places, "--corruptions"
    code, text = trained(*results, "--where", "method == 'kd' and severity == 5", "--format", "json")
    assert code == 0 and [row["top1"] for row in json.loads(text)] == [pytest.approx(first.top1, rel=1e-6)]
    code, text = trained(*results, "--cells")
    assert code == 2 and "choose one" in text


@pytest.mark.parametrize(("wrong", "words"), [("fog:1", "unknown corruption 'fog'"), ("shot_noise=0", "above 0")])
def test_a_wrong_corruption_is_refused_with_the_settings_name(shell, wrong, words):
    code, text = shell.run("--methods", "kd", settings=(*SHORT, f"recipe.evaluation.corruptions={wrong}"))
    assert code == 2 and "evaluation.corruptions: " in text and words in text and not shell.store.exists()


def test_a_record_says_nothing_of_corruptions_that_there_are_not():
    numbers = {"top1": 50.0, "top5": 90.0, "optimistic_top1": 50.0, "optimistic_epoch": 0}
    assert "corruptions" not in Result(**numbers).model_dump_json()
    noise = {"kind": "shot_noise", "strength": 30.0, "severity": None, "top1": 40.0, "top5": 80.0}
    told = Result(**numbers, corruptions=(Corrupted(**noise),))
    assert Result.model_validate_json(told.model_dump_json()) == told
    for change in ({"kind": "fog"}, {"severity": 3}, {"strength": 60.0}):
        with pytest.raises(ValueError, match="no corruption is"):
            Corrupted(**noise | change)
