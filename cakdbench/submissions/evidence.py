"""The results folder for the boards: records and their statuses, predictions and labels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cakdbench.records import Record
from cakdbench.store import run_key
from cakdbench.submissions.bundle import EntryFile, read_bundle, read_entry_file
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import NAME, NPY_BYTES, parse_classes, read_file
from cakdbench.submissions.status import CLAIMED, Verdict, read_verdicts
from cakdbench.utils.errors import StoreError


@dataclass
class Submitted:
    """The content of a results folder.

    Attributes:
        statuses: by key of the record.
        damage: the faults of the files that were left out.
    """

    records: list[Record] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)
    external: tuple[ExternalEntry, ...] = ()
    damage: list[str] = field(default_factory=list)


def read_results(folder: Path) -> Submitted:
    """Read a results folder; one that does not exist holds nothing.

    Only what a board needs is checked: that an entry is readable, has its own key and predictions, and is as the
    maintainers listed it. `validate` checks the rest.
    """
    if not folder.is_dir():
        return Submitted()
    try:
        bundle = read_bundle(folder)
    except Refused as error:
        return Submitted(damage=[f"{folder}: {error}"])
    damage = [f"{folder}/{finding}" for finding in bundle.findings]
    submitted = Submitted(external=tuple(bundle.external.values()), damage=damage)
    verdicts = bundle.verdicts.by_key()
    for entry in bundle.entries:
        try:
            submitted.statuses[entry.key] = _status(entry, verdicts)
            submitted.records.append(entry.record)
        except StoreError as error:
            damage.append(f"{folder}/{entry.file}: {error}")
    return submitted


def read_entry(file: Path) -> tuple[Record, str]:
    """Read one entry of a results folder: its record and its status.

    Raises:
        StoreError: it cannot be read, or is not what it says.
    """
    folder = file.parent.parent
    entry = read_entry_file(folder, f"{file.parent.name}/{file.name}")
    return entry.record, _status(entry, read_verdicts(folder).by_key())


def _status(entry: EntryFile, verdicts: Mapping[str, Verdict]) -> str:
    """Return the status of an entry that is as it should be.

    Raises:
        StoreError: it is not.
    """
    verdict = verdicts.get(entry.key)
    if wrong := _wrong(entry, verdict):
        raise StoreError(f"{wrong}; `cakdbench validate` says more")
    return verdict.status if verdict else CLAIMED


def _wrong(entry: EntryFile, verdict: Verdict | None) -> str | None:
    record = entry.record
    if record.key != run_key(record.identity) or entry.file != f"{record.identity.method.id}/{record.key}.json":
        return "its key or its place is not its own"
    if entry.predictions_sha256 != record.predictions_sha256:
        return "its predictions are not those of the record"
    if verdict and verdict.sha256 != entry.sha256:
        return f"was changed after it had been found {verdict.status}"
    return None


def load_predictions(path: Path, sha256: str) -> np.ndarray | None:
    """Return `(N,)` uint16 predicted classes of a run's file of them; None if it is not there.

    Args:
        sha256: what the record says of the file.

    Raises:
        StoreError: the file is damaged, or not the record's.
    """
    if not path.exists():
        return None
    try:
        content = read_file(path, NPY_BYTES)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(f"damaged file {path}: not the predictions of the record; restore it")
        return parse_classes(content)
    except Refused as error:
        raise StoreError(f"damaged file {path}: {error}") from error


def labels_folder(results: Path) -> Path:
    """Return the folder of the test labels: it lies beside the results folder."""
    return results.parent / "labels"


def load_labels(folder: Path, dataset: str, fingerprint: str) -> np.ndarray | None:
    """Return the `(N,)` uint16 classes of a dataset's test images, from the folder of labels or the embedded dataset.

    None if they are not at hand.

    Raises:
        StoreError: the file is damaged.
    """
    from cakdbench.submissions.truth import Truth, labels_name

    path = folder / labels_name(dataset, fingerprint)
    if NAME.fullmatch(path.name) and path.parent == folder and path.exists():
        try:
            return parse_classes(read_file(path, NPY_BYTES))
        except Refused as error:
            hint = "restore it, or remove it and keep the dataset at hand"
            raise StoreError(f"damaged file {path}: {error.problem.what}; {hint}") from error
    data = Truth(folder).dataset(dataset)
    if data is None or data.fingerprint != fingerprint:
        return None
    return data.test.labels.astype(np.uint16)
