"""The results folder for the boards: records, what is known of each, predictions and labels."""

import hashlib
from pathlib import Path

import numpy as np

from cakdbench.records import Record
from cakdbench.store import run_key
from cakdbench.submissions.bundle import Held, read_bundle
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.findings import Refused
from cakdbench.submissions.reading import NAME, NPY_BYTES, parse_classes, read_file
from cakdbench.submissions.status import CLAIMED, Verdict
from cakdbench.submissions.truth import Truth, labels_name
from cakdbench.utils.errors import StoreError


def read_results(folder: Path) -> tuple[list[Record], dict[str, str], list[str]]:
    """The records of a results folder, their statuses by key, and what is wrong with what was left out.

    Only what a board needs is checked: that an entry is readable, has its own key and predictions, and is as the
    maintainers listed it. `validate` checks the rest.
    """
    if not folder.is_dir():
        return [], {}, []
    try:
        bundle = read_bundle(folder)
    except Refused as error:
        return [], {}, [f"{folder}: {error}"]
    records, statuses, damage = [], {}, [f"{folder}/{finding}" for finding in bundle.findings]
    listed = bundle.verdicts.by_key()
    for held in bundle.held:
        verdict = listed.get(held.entry.key)
        if wrong := _wrong(held, verdict):
            damage.append(f"{folder}/{held.file}: {wrong}; `cakdbench validate` says more")
            continue
        records.append(held.entry.record)
        statuses[held.entry.key] = verdict.status if verdict else CLAIMED
    return records, statuses, damage


def _wrong(held: Held, verdict: Verdict | None) -> str | None:
    record = held.entry.record
    if record.key != run_key(record.identity) or held.file != f"{record.identity.method.id}/{record.key}.json":
        return "its key or its place is not its own"
    if held.predictions_sha256 != record.predictions_sha256:
        return "its predictions are not those of the record"
    if verdict and verdict.sha256 != held.sha256:
        return f"was changed after it had been found {verdict.status}"
    return None


def read_external(folder: Path) -> list[ExternalEntry]:
    """The external numbers of a results folder, in the order of their files."""
    try:
        return list(read_bundle(folder).external.values()) if folder.is_dir() else []
    except Refused:
        return []


def load_predictions(folder: Path, record: Record) -> np.ndarray | None:
    """`(N,)` uint16 predicted classes of an entry of a results folder; None if they are not there.

    Raises:
        StoreError: the file is damaged, or not the record's.
    """
    if not (NAME.fullmatch(record.identity.method.id) and NAME.fullmatch(record.key)):
        return None
    path = folder / record.identity.method.id / f"{record.key}.npy"
    if not path.exists():
        return None
    try:
        content = read_file(path, NPY_BYTES)
        if hashlib.sha256(content).hexdigest() != record.predictions_sha256:
            raise StoreError(f"damaged file {path}: not the predictions of the record; restore it")
        return parse_classes(content)
    except Refused as error:
        raise StoreError(f"damaged file {path}: {error}") from error


def labels_folder(results: Path) -> Path:
    """Where the test labels lie: beside the results folder."""
    return results.parent / "labels"


def load_labels(folder: Path, dataset: str, fingerprint: str) -> np.ndarray | None:
    """`(N,)` uint16 classes of a dataset's test images, from the folder of labels or the embedded dataset.

    None if they are not at hand.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / labels_name(dataset, fingerprint)
    if NAME.fullmatch(path.name) and path.parent == folder and path.exists():
        try:
            return parse_classes(read_file(path, NPY_BYTES))
        except Refused as error:
            hint = "restore it, or remove it and keep the dataset at hand"
            raise StoreError(f"damaged file {path}: {error.problem.what}; {hint}") from error
    data = Truth(folder).dataset(dataset)
    found = data is not None and data.fingerprint == fingerprint
    return data.test.labels.astype(np.uint16) if found else None
