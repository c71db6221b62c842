"""`cakdbench.load_results`: finished runs as a frame, each judged by the rules of the boards."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cakdbench.records import Record
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.load import Evidence, default_paths
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.reports.standard import Column


def load_results(*paths: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return finished runs as a frame, a row a run, ordered by key.

    Columns:
        key: names the run. method: as users write it, `fbt` or `fbt:no_infonce`. variant: what follows the colon.
        teacher, student, dataset, pair (`TEACHER>STUDENT@DATASET`), recipe, precision, seed: what was trained. A method
            without teacher belongs to no pair: its pair is `STUDENT@DATASET`.
        trials: how many settings the search by `cakdbench tune` tried that found these; 0: they were not searched.
        status: claimed, re-scored or re-run of a submitted run, else `not submitted`.
        excluded: why the run does not count, missing if it does: other settings than those of its recipe and method,
            a teacher that is not the registry's, a source or a file other than that of most runs beside it, or that it
            is the training of a teacher.
        top1, top5: on the test set after the last epoch. ema_top1: of the averaged weights.
        optimistic_top1, optimistic_epoch: of the best epoch on the test set, which is too high by construction.
        teacher_top1, teacher_top5, teacher_expected, teacher_source, teacher_mismatch: of the teacher where it was
            verified.
        student_parameters, extra_parameters: the latter are trained beside the student and dropped.
        seconds, images_per_second, peak_memory_mb, energy_wh: of the method's own steps and evaluations.
        device, processes, threads, lanes, compiled, channels_last, versions, finished: how and when it was computed.
        engine_version, fingerprint (of the dataset), teacher_sha256, method_source, weights_sha256, predictions_sha256:
            of what it was made, and what it made. skipped: images of the dataset that could not be read.
        path: the record's file.
        top1_NAME: of a further network that a method evaluates, as `top1_assistant` of FBT's, and under a corruption
            that a recipe asks for, as `top1_gaussian_noise=0.18`; a column each, if any.

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


def _judged_frame(stored: list[StoredRecord], data_dir: Path | None) -> pd.DataFrame:
    """Return the frame of runs, each under the canonical name of its settings, with what keeps it from counting."""
    if not stored:
        return runs_frame([])
    from cakdbench.reports.eligibility import sort_runs
    from cakdbench.reports.standard import Standard

    records = [run.record for run in stored]
    columns, excluded = _columns(records, data_dir)
    statuses = {run.record.key: run.status for run in stored if run.status}
    runs = sort_runs(records, columns, Standard(data_dir), statuses)
    counting = {record.key: record for group in runs.counting.values() for record in group}
    excluded |= {run.record.key: "; ".join(run.reasons) for run in runs.excluded}
    for record in records:
        if record.key not in counting:
            excluded.setdefault(record.key, "it is the training of a teacher")
    excluded = {key: reason for key, reason in excluded.items() if key not in counting}
    named = (StoredRecord(counting.get(run.record.key, run.record), run.path, run.status) for run in stored)
    return runs_frame(named, excluded)


def _columns(records: Iterable[Record], data_dir: Path | None) -> tuple[list["Column"], dict[str, str]]:
    """Return every pair with every recipe that it was trained by, and why the runs of a pair cannot be judged, by key.

    A student that no teacher taught under a recipe is a pair with itself; but not one that became a teacher. A recipe
    that does not come with cakdbench has the numbers of most of its runs.
    """
    from cakdbench.data.datasets import dataset_facts
    from cakdbench.reports.standard import Column

    columns: list[Column] = []
    problems: dict[str, str] = {}
    records = list(records)
    for spec, keys in _keys_by_spec(records).items():
        *_, dataset, recipe = spec
        try:
            images = dataset_facts(dataset, data_dir).n_test
            columns.append(Column(*spec, _numbers(recipe, records), images))
        except UsageError as error:
            problems |= dict.fromkeys(keys, f"cannot be judged: {error}")
    return columns, problems


def _numbers(recipe: str, records: Iterable[Record]) -> dict[str, Any]:
    """Return the numbers of a recipe: as it comes with cakdbench, else those of most of its runs."""
    from cakdbench.recipes import load_recipe, recipe_names

    if recipe in recipe_names():
        return load_recipe(recipe).numbers()
    texts = Counter(json.dumps(record.recipe, sort_keys=True) for record in records if record.recipe_name == recipe)
    return json.loads(min(texts, key=lambda text: (-texts[text], text)))


def _keys_by_spec(records: Iterable[Record]) -> dict[tuple[str, str, str, str], list[str]]:
    """Return the keys of runs by teacher, student, dataset and recipe."""
    records = list(records)
    teachers = {r.identity.teacher.sha256 for r in records if r.identity.teacher}
    trained = {(r.identity.student, r.identity.dataset.name, r.recipe_name) for r in records if r.identity.teacher}
    specs: dict[tuple[str, str, str, str], list[str]] = {}
    untaught: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        identity = record.identity
        facts = identity.student, identity.dataset.name, record.recipe_name
        if identity.teacher:
            specs.setdefault((identity.teacher.model, *facts), []).append(record.key)
        elif facts not in trained and record.weights_sha256 not in teachers:
            specs.setdefault((identity.student, *facts), []).append(record.key)
        elif record.weights_sha256 not in teachers:
            untaught.setdefault(facts, []).append(record.key)
    return {spec: [*keys, *untaught.get(spec[1:], ())] for spec, keys in specs.items()}
