"""What boards are made from: the records of the store and of the submitted results, and their predictions."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cakdbench.data.datasets import load_dataset
from cakdbench.records import Record
from cakdbench.store import RunFolder, Store
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.evidence import labels_folder, load_labels, load_predictions, read_external, read_results
from cakdbench.utils.errors import CakdError


class Evidence:
    """Records by key, with what is known beyond them.

    A run that is in the store and submitted counts once, as submitted.

    Args:
        store: finished runs of one's own; None for none.
        results: the folder of submitted results; one that does not exist has none.
        data_dir: where the datasets lie, for test labels that are not beside the results.

    Attributes:
        records: all of them, in the order of their keys.
        statuses: of the submitted ones, by key.
        external: submitted numbers that were measured with other code.
        damage: a sentence for each file that cannot be read.
    """

    def __init__(self, store: Store | None, results: Path | None, data_dir: Path | None = None):
        self.store, self.results, self.data_dir = store, results, data_dir
        own, own_damage = store.records() if store else ([], [])
        submitted, statuses, damage = read_results(results) if results else ([], {}, [])
        self.statuses: Mapping[str, str] = statuses
        self.external: tuple[ExternalEntry, ...] = tuple(read_external(results)) if results else ()
        self.damage = [*own_damage, *damage]
        found = {record.key: record for record in own} | {record.key: record for record in submitted}
        self.records: list[Record] = [found[key] for key in sorted(found)]
        self._labels = functools.cache(self._find_labels)

    def answers(self, record: Record) -> np.ndarray | None:
        """Whether the run classified each test image right, `(images,)`; None where that is not known."""
        labels = self._labels(record.identity.dataset.name, record.identity.dataset.fingerprint)
        predictions = self._predictions(record)
        if labels is None or predictions is None or predictions.shape != labels.shape:
            return None
        return predictions == labels

    def _predictions(self, record: Record) -> np.ndarray | None:
        if record.key in self.statuses:
            return load_predictions(self.results, record)
        try:
            return np.load(RunFolder(self.store.root / record.key).predictions, allow_pickle=False)
        except (OSError, ValueError):
            return None

    def _find_labels(self, name: str, fingerprint: str) -> np.ndarray | None:
        if self.results and (labels := load_labels(labels_folder(self.results), name, fingerprint)) is not None:
            return labels
        try:
            dataset = load_dataset(name, self.data_dir, download=False)
        except CakdError:
            return None
        return np.asarray(dataset.test.labels) if dataset.fingerprint == fingerprint else None
