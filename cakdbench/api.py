"""The functions of `import cakdbench`: results as pandas frames. Accuracies are in percent, differences in points."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cakdbench.published.frame import published_frame
from cakdbench.records import Record
from cakdbench.results import compare as comparing
from cakdbench.results.cells import cells_frame
from cakdbench.results.frame import StoredRecord, check_columns, history_frame, runs_frame
from cakdbench.results.load import Evidence, default_paths, read_records
from cakdbench.results.predictions import NEEDED, CorrectAnswers
from cakdbench.results.printed import printed_texts
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.reports.eligibility import Column

# ---- Results ---------------------------------------------------------------------------------------------------------


def load_results(*paths: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return finished runs as a frame, a row a run, ordered by key.

    Columns:
        key: names the run. method: as users write it, `fbt` or `fbt:no_infonce`. variant: what follows the colon.
        teacher, student, dataset, pair (`TEACHER>STUDENT@DATASET`), recipe, precision, seed: what was trained. A method
            without teacher belongs to no pair: its pair is `STUDENT@DATASET`.
        status: claimed, re-scored or re-run of a submitted run, else `not submitted`.
        excluded: why the run does not count, missing if it does: other settings than those of its recipe and method,
            a teacher that is not the registry's, a source or a file other than that of most runs beside it, or that it
            is the training of a teacher.
        top1, top5: on the test set after the last epoch. ema_top1: of the averaged weights.
        optimistic_top1, optimistic_epoch: of the best epoch on the test set, which is too high by construction.
        teacher_top1, teacher_expected, teacher_source, teacher_mismatch: of the teacher where it was verified.
        student_parameters, extra_parameters: the latter are trained beside the student and dropped.
        seconds, images_per_second, peak_memory_mb, energy_wh: of the method's own steps and evaluations.
        device, processes, threads, lanes, compiled, channels_last, versions, finished: how and when it was computed.
        engine_version, fingerprint (of the dataset), teacher_sha256, method_source, weights_sha256, predictions_sha256:
            of what it was made, and what it made.
        path: the record's file.

    Args:
        paths: stores (`runs`), results folders (`leaderboards/results`), folders of single runs, or files of single
            entries; without any: the store and the submitted results of the checkout, where they exist. A run that
            occurs several times counts once, as submitted.
        data_dir: where datasets lie; only for pairs on `timm:` datasets.

    Raises:
        UsageError: there is nothing at a path. Of a damaged file a warning says what is wrong; it is left out.
    """
    folder = None if data_dir is None else Path(data_dir)
    evidence = Evidence.read(map(Path, paths) if paths else default_paths(), folder)
    for sentence in evidence.damage:
        warnings.warn(sentence, stacklevel=2)
    return _judged_frame(evidence.stored, folder)


def summarize(runs: pd.DataFrame, data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return the cells of runs, a row a method on a pair under a recipe and a precision; excluded runs do not count.

    Runs without teacher (scratch) count for every pair of their student.

    Columns:
        method, variant, teacher, student, pair, dataset, recipe, precision: of the cell.
        n, seeds: how many runs, and their seeds. mean, sd: of top-1 over the seeds; a single run has no sd.
        gain: over the scratch student of the same recipe, mean over the seeds that both have.
        average_gain, rank, letters: of the method over all pairs of its dataset and precision. Ranks (1 is best) are
            averages, of the methods with three seeds on all pairs. Methods that share a letter cannot be told apart in
            average accuracy: paired tests on the stored predictions, Holm's correction at 5 %.
        level: True for the best of a pair and what cannot be told apart from it.
        top5, optimistic, ema: means of top-5, of the best epochs, and of the averaged weights.
        printed: the papers' numbers for method and pair with their sources; `load_published` has them as numbers.

    Args:
        runs: of `load_results`, or part of it: `summarize(runs[runs.recipe == "demo"])`.
        data_dir: where datasets lie, for test labels that are not beside the results.
    """
    check_columns(runs, ["method", "pair", "recipe", "seed", "top1", *NEEDED])
    cells = cells_frame(runs, CorrectAnswers(runs, None if data_dir is None else Path(data_dir)))
    return cells.assign(printed=printed_texts(cells))


def load_published() -> pd.DataFrame:
    """Return the accuracies that papers print, a row a number.

    Columns:
        method (`teacher` and `scratch` are the models alone), teacher, student, pair, dataset: as in `load_results`.
        metric: top1 or top5. value: in percent; printed: the same with the digits of the source. gain: in points above
            the scratch student of the same table.
        source, table: where it is printed. mode, panel: block and half of the table, if it has several. printed_as: the
            method's name there. note: what is uncertain.
        protocol: family of settings; values of different families are not comparable.
    """
    return published_frame()


def compare(
    runs: pd.DataFrame, first: str, second: str, data_dir: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Return the paired difference of two methods, first minus second: a row a pair, then their `average`.

    Both saw the same test images in the same order with the same seeds, so images and seeds are paired. The standard
    error holds the choice of the test images and the chance of training.

    Columns: pair, dataset, recipe, precision; n, the seeds that both have; difference and standard_error in points;
    degrees (of freedom, by Welch and Satterthwaite); p (two-sided, of this comparison alone). Without predictions or
    test labels at hand there is a difference and no test.

    Args:
        runs: of `load_results`; the other methods in it help to estimate the chance of training.
        data_dir: where datasets lie, for test labels that are not beside the results.

    Raises:
        UsageError: a method has no runs that count, or the two have no seed of a pair in common.
    """
    check_columns(runs, ["method", "pair", "recipe", "seed", "top1", *NEEDED])
    answers = CorrectAnswers(runs, None if data_dir is None else Path(data_dir))
    return comparing.comparison_frame(runs, first, second, answers)


def history(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the training histories of runs, a row an epoch.

    Columns: key, method, pair, seed of the run; epoch from 0, lr, train_top1, top1 and ema_top1 on the test set where
    they were measured, and for every loss its mean over the epoch's steps: loss_label, loss_kd, ...; missing where a
    method has no such loss.

    Raises:
        UsageError, StoreError: the frame names no files, or they cannot be read.
    """
    check_columns(runs, ["key", "method", "path"])
    epochs = history_frame(read_records(runs["path"]))
    return epochs.assign(method=epochs["key"].map(dict(zip(runs["key"], runs["method"]))).astype("str"))


def _judged_frame(stored: list[StoredRecord], data_dir: Path | None) -> pd.DataFrame:
    """Return the frame of runs, each under the canonical name of its settings, with what keeps it from counting."""
    if not stored:
        return runs_frame([])
    from cakdbench.reports.eligibility import Standard, sort_runs

    records = [run.record for run in stored]
    columns, excluded = _columns(records, data_dir)
    runs = sort_runs(records, columns, Standard(data_dir))
    counting = {record.key: record for group in runs.counting.values() for record in group}
    excluded |= {run.record.key: "; ".join(run.reasons) for run in runs.excluded}
    for record in records:
        if record.key not in counting:
            excluded.setdefault(record.key, "it is the training of a teacher")
    named = (StoredRecord(counting.get(run.record.key, run.record), run.path, run.status) for run in stored)
    return runs_frame(named, excluded)


def _columns(records: Iterable[Record], data_dir: Path | None) -> tuple[list["Column"], dict[str, str]]:
    """Return every pair with every recipe that it was trained by, and why the runs of a pair cannot be judged, by key.

    A student that no teacher taught under a recipe is a pair with itself; but not one that became a teacher.
    """
    from cakdbench.grid.suites import Pair, PairSpec
    from cakdbench.reports.eligibility import column_of

    columns: list[Column] = []
    problems: dict[str, str] = {}
    for spec, keys in _keys_by_spec(records).items():
        teacher, student, dataset, recipe = spec
        try:
            columns.append(column_of(PairSpec(Pair(teacher, student, dataset), recipe), data_dir=data_dir))
        except UsageError as error:
            problems |= dict.fromkeys(keys, f"cannot be judged: {error}")
    return columns, problems


def _keys_by_spec(records: Iterable[Record]) -> dict[tuple[str, str, str, str], list[str]]:
    """Return the keys of runs by teacher, student, dataset and recipe."""
    records = list(records)
    teachers = {r.identity.teacher.sha256 for r in records if r.identity.teacher}
    trained = {(r.identity.student, r.identity.dataset.name, r.recipe_name) for r in records if r.identity.teacher}
    specs: dict[tuple[str, str, str, str], list[str]] = {}
    for record in records:
        identity = record.identity
        facts = identity.student, identity.dataset.name, record.recipe_name
        if identity.teacher:
            specs.setdefault((identity.teacher.model, *facts), []).append(record.key)
        elif facts not in trained and record.weights_sha256 not in teachers:
            specs.setdefault((identity.student, *facts), []).append(record.key)
    return specs
