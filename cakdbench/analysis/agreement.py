"""Agreement of predictions: how often two runs answer alike, and how many of their errors they share."""

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from cakdbench.results.predictions import CorrectAnswers, predictions_path
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
    much training alone changes. The teacher takes part where its training is among the runs.

    Columns: first, second; n, how many couples of runs; agreement, the share of test images with one answer, in
    percent; shared_errors, images both get wrong among those that one of them does, in percent; same_wrong, images
    both get wrong with one wrong answer among those that both get wrong, in percent.

    Args:
        runs: of `load_results`.
        pair: as in its column.
        data_dir: where datasets lie, for test labels that are not beside the results.
        recipe, precision: of the pair's runs; needed where they have several.

    Raises:
        UsageError: no runs of the pair have predictions and labels at hand, or they have several recipes or precisions.
    """
    answers = CorrectAnswers(runs, data_dir)
    chosen = _chosen(runs, pair, {"recipe": recipe, "precision": precision})
    cells = {name: _cell(own, answers) for name, own in _by_method(runs, chosen).items()}
    cells = {name: cell for name, cell in cells.items() if cell}
    if not cells:
        raise UsageError(f"no predictions of runs on {pair}; pairs at hand: {', '.join(sorted(set(runs['pair'])))}")
    rows = [_row(*names, _couples(cells, *names)) for names in product(cells, cells)]
    return pd.DataFrame(rows)


Cell = dict[int, tuple[np.ndarray, np.ndarray]]
"""Predictions and which of them are right, by seed."""


def _chosen(runs: pd.DataFrame, pair: str, wanted: dict[str, str | None]) -> pd.DataFrame:
    """Return the counting runs of a pair, all of one recipe and precision.

    Raises:
        UsageError: there are several; names them.
    """
    own = runs[(runs["pair"] == pair) & runs["excluded"].isna()]
    for name, value in wanted.items():
        own = own if value is None else own[own[name] == value]
        if len(several := sorted(set(own[name]))) > 1:
            raise UsageError(f"{pair} has runs of several {name}s, {', '.join(several)}: choose one with --{name}")
    return own


def _by_method(runs: pd.DataFrame, own: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each method, scratch of the same student and conditions, and the training of the teacher."""
    conditions = ["student", "dataset", "recipe", "precision"]
    alone = runs[runs["teacher"].isna() & runs["excluded"].isna()]
    beside = alone.merge(own[conditions].drop_duplicates(), on=conditions)
    taught = runs["weights_sha256"].isin(set(own["teacher_sha256"].dropna())) & runs["dataset"].isin(
        set(own["dataset"])
    )
    groups = dict(iter(pd.concat([beside, own]).drop_duplicates("key").groupby("method")))
    return ({TEACHER: runs[taught]} if taught.any() else {}) | groups


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
    if TEACHER in (name, other) and len(cells[TEACHER]) == 1:  # it taught the runs of all seeds
        return ((a, b) for a, b in product(first.values(), second.values()))
    return ((first[seed], second[seed]) for seed in sorted(first.keys() & second.keys()))


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
