"""Agreement of predictions: how often two runs answer alike, and how many of their errors they share."""

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from cakdbench.engine.run_names import RunNames
from cakdbench.grid.pairs import RUN, Pair
from cakdbench.grid.teachers import teaching_runs
from cakdbench.records import Record
from cakdbench.results.predictions import CorrectAnswers, predictions_path
from cakdbench.store import RunFolder
from cakdbench.submissions.evidence import read_entry
from cakdbench.utils.errors import UsageError

TEACHER = "teacher"


def agreement(
    runs: pd.DataFrame,
    pair: str,
    data_dir: Path | None = None,
    recipe: str | None = None,
    precision: str | None = None,
) -> pd.DataFrame:
    """Return agreement and shared errors of every two methods of a pair, and of each with itself and the teacher.

    Two methods are compared on runs of one seed, a method with itself on runs of different seeds: the latter says how
    much training alone changes. The teacher takes part where its training is among the runs; of several at once each.

    Columns: first, second; n, how many couples of runs; agreement, the share of test images with one answer, in
    percent; shared_errors, images both get wrong among those that one of them does, in percent; same_wrong, images
    both get wrong with one wrong answer among those that both get wrong, in percent.

    Args:
        runs: of `load_results`.
        pair: as in its column; where a student of a run taught, as the command that trained it named the pair.
        data_dir: where datasets lie, for test labels that are not beside the results.
        recipe, precision: of the pair's runs; needed where they have several.

    Raises:
        UsageError: no runs of the pair have predictions and labels at hand, or they have several recipes, precisions or
            teachers.
    """
    answers = CorrectAnswers(runs, data_dir)
    chosen = _chosen(runs, pair, {"recipe": recipe, "precision": precision})
    cells = {name: _cell(own, answers) for name, own in _by_method(runs, chosen).items()}
    cells = {name: cell for name, cell in cells.items() if cell}
    if not cells:
        raise UsageError(f"no predictions of runs on {pair}{_set_aside(runs, pair)}")
    rows = [_row(*names, _couples(cells, *names)) for names in product(cells, cells)]
    return pd.DataFrame(rows)


Cell = dict[int, tuple[np.ndarray, np.ndarray]]
"""Predictions and which of them are right, by seed."""


def _chosen(runs: pd.DataFrame, pair: str, wanted: dict[str, str | None]) -> pd.DataFrame:
    """Return the counting runs of a pair, all of one recipe and precision, and one a method and seed.

    Raises:
        UsageError: there are several; names them.
    """
    own = _learners(runs, pair) if RUN in pair else runs[(runs["pair"] == pair) & runs["excluded"].isna()]
    for name, value in wanted.items():
        own = own if value is None else own[own[name] == value]
        if len(several := sorted(set(own[name]))) > 1:
            raise UsageError(f"{pair} has runs of several {name}s, {', '.join(several)}: choose one with --{name}")
    twice = own[own.duplicated(["method", "seed"], keep=False)].sort_values(["method", "seed", "key"])
    if len(twice):
        first, second, *_ = twice.itertuples()
        told = f"{pair} has several runs of {first.method}, seed {first.seed}, as {first.key} and {second.key}"
        raise UsageError(f"{told}: leave the results of one out, or name their teacher by its key, run:KEY")
    return own


def _learners(runs: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Return the runs of a pair that names runs as teachers; that no board counts such a teacher keeps none back."""
    named = Pair.parse(pair)
    runs = runs.dropna(subset="path")
    why = "a teacher that is not the registry's (" + runs["teacher_source"].fillna("") + ")"
    counting = runs[runs["excluded"].isna() | (runs["excluded"] == why)]
    own = counting[(counting["student"] == named.student) & (counting["dataset"] == named.dataset)]
    paths = dict(zip(runs["key"], runs["path"]))
    taught = RunNames(paths, lambda key: _record(paths[key])).taught(named)
    return own[[taught(_record(path)) for path in own["path"]]]


def _set_aside(runs: pd.DataFrame, pair: str) -> str:
    """Return why runs of a pair do not take part, or which pairs there are."""
    aside = runs[(runs["pair"] == pair) & runs["excluded"].notna()]
    if not len(aside):
        return f"; pairs at hand: {', '.join(sorted(set(runs['pair'])))}"
    sources = aside["teacher_source"].dropna()
    keys = [key for source in sorted(set(sources)) for key in teaching_runs(source) if key]
    named = f"; name the pair with the run that taught, {RUN}{keys[0]}>{pair.rpartition('>')[2]}" if keys else ""
    return f" that count: {aside['excluded'].iloc[0]}{named}"


def _by_method(runs: pd.DataFrame, own: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each method, scratch of the same student and conditions, and the trainings of the teachers."""
    conditions = ["student", "dataset", "recipe", "precision"]
    alone = runs[runs["teacher"].isna() & runs["excluded"].isna()]
    beside = alone.merge(own[conditions].drop_duplicates(), on=conditions)
    groups = dict(iter(pd.concat([beside, own]).drop_duplicates("key").groupby("method")))
    same = runs[runs["dataset"].isin(set(own["dataset"]))]
    taught = {name: same[same["weights_sha256"].isin(weights)] for name, weights in _teachers(own).items()}
    return {name: trained for name, trained in taught.items() if len(trained)} | groups


def _teachers(own: pd.DataFrame) -> dict[str, set[str]]:
    """Return the weights of the teachers of a pair's runs, of each by itself, by what readers call it."""
    found: dict[str, set[str]] = {}
    for run in own.dropna(subset=["teacher", "path"]).itertuples():
        teacher = _record(run.path).identity.teacher if "+" in run.teacher else None
        for number, each in enumerate((teacher and teacher.several) or (), 1):
            found.setdefault(f"{TEACHER} {number} ({each.model})", set()).add(each.sha256)
        if teacher is None:
            found.setdefault(TEACHER, set()).add(run.teacher_sha256)
    return found


def _record(path: str) -> Record:
    """Return the record of a run, of a store or of a results folder."""
    file = Path(path)
    return RunFolder(file.parent).record() if file.name == "record.json" else read_entry(file)[0]


def _cell(runs: pd.DataFrame, answers: CorrectAnswers) -> Cell:
    cell: Cell = {}
    for run in runs.itertuples():
        right = answers(run.key)
        if right is not None:
            cell[run.seed] = np.load(predictions_path(Path(run.path))), right
    return cell


def _couples(cells: dict[str, Cell], name: str, other: str) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], ...]]:
    first, second = cells[name], cells[other]
    if name == other:
        return ((first[a], first[b]) for a, b in combinations(sorted(first), 2))
    if any(_is_teacher(each) and len(cells[each]) == 1 for each in (name, other)):  # it taught the runs of all seeds
        return ((a, b) for a, b in product(first.values(), second.values()))
    return ((first[seed], second[seed]) for seed in sorted(first.keys() & second.keys()))


def _is_teacher(name: str) -> bool:
    return name.partition(" ")[0] == TEACHER


def _row(first: str, second: str, couples: Iterator) -> dict[str, object]:
    values = [_shares(*couple) for couple in couples]
    means = np.mean(values, axis=0) if values else [np.nan] * 3
    names = ("agreement", "shared_errors", "same_wrong")
    return {"first": first, "second": second, "n": len(values)} | {k: float(v) for k, v in zip(names, means)}


def _shares(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[float, ...]:
    same = first[0] == second[0]
    both, either = ~first[1] & ~second[1], ~first[1] | ~second[1]
    return tuple(_percent(*counts) for counts in ((same, np.ones_like(same)), (both, either), (both & same, both)))


def _percent(part: np.ndarray, whole: np.ndarray) -> float:
    return 100 * part.sum() / whole.sum() if whole.any() else float("nan")
