"""The test images that runs classified right, read from their predictions when somebody asks."""

import functools
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from cakdbench.results.frame import check_columns
from cakdbench.submissions.evidence import labels_folder, load_labels, load_predictions
from cakdbench.utils.errors import CakdError, StoreError


class CorrectAnswers:
    """Maps the key of a run to the test images that it classified right, `(images,)` bool.

    None where predictions or labels are not at hand and, with a warning, where a run's predictions are damaged.
    Damaged labels concern all runs: they raise StoreError.

    Args:
        runs: as `load_results` returns them.
        data_dir: where the datasets lie, for test labels that are not beside the results.

    Raises:
        UsageError: the frame lacks columns.
    """

    def __init__(self, runs: pd.DataFrame, data_dir: str | os.PathLike[str] | None = None):
        check_columns(runs, NEEDED)
        self._runs = {run.key: run for run in runs[NEEDED].itertuples(index=False) if isinstance(run.path, str)}
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._labels = functools.cache(self._find_labels)

    def __call__(self, key: str) -> np.ndarray | None:
        run = self._runs.get(key)
        if run is None:
            return None
        try:
            predictions = load_predictions(predictions_path(Path(run.path)), run.predictions_sha256)
        except StoreError as error:
            warnings.warn(f"{error}; paired tests go without the run", stacklevel=2)
            return None
        labels = None if predictions is None else self._labels(run.dataset, run.fingerprint, run.skipped)
        if predictions is None or labels is None or predictions.shape != labels.shape:
            return None
        return np.equal(predictions, labels)

    def _find_labels(self, dataset: str, fingerprint: str, skipped: int) -> np.ndarray | None:
        folders = {labels_folder(Path(run.path).parents[1]) for run in self._runs.values() if _is_entry(Path(run.path))}
        for folder in sorted(folders):
            if (labels := load_labels(folder, dataset, fingerprint, skipped)) is not None:
                return labels
        return _labels_of_dataset(dataset, fingerprint, skipped, self._data_dir)


NEEDED = [
    *("key", "path", "dataset", "fingerprint", "skipped", "predictions_sha256"),
    *("method", "pair", "recipe", "seed", "top1"),
]
"""The columns of runs by which predictions and labels are found, and methods tested."""


def predictions_path(record: Path) -> Path:
    """Return where the predictions of a record's file lie, in a store or in a results folder."""
    return record.with_suffix(".npy") if _is_entry(record) else record.with_name("predictions.npy")


def _is_entry(record: Path) -> bool:
    return record.name != "record.json"


def _labels_of_dataset(dataset: str, fingerprint: str, skipped: int, data_dir: Path | None) -> np.ndarray | None:
    from cakdbench.data.datasets import load_as_seen

    try:
        data = load_as_seen(dataset, skipped, data_dir, download=False)
    except CakdError:
        return None
    return np.asarray(data.test.labels) if data.fingerprint == fingerprint else None
