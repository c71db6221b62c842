"""The results folder for the boards: records and their statuses, predictions and labels."""

import hashlib
import re
from pathlib import Path

import numpy as np

from cakdbench.data.shipped import false_labels
from cakdbench.records import Record
from cakdbench.store import run_key
from cakdbench.submissions.bundle import Bundle, EntryFile, read_bundle, read_entry_file
from cakdbench.submissions.findings import Finding, Problem, Refused
from cakdbench.submissions.normal import read_recipe
from cakdbench.submissions.reading import NPY_BYTES, is_name, parse_classes, read_classes, read_file
from cakdbench.submissions.status import Verdict, read_verdicts, status_of
from cakdbench.utils.errors import StoreError


def read_results(folder: Path) -> Bundle:
    """Read a results folder for boards; one that does not exist holds nothing.

    Only what a board needs is checked: that an entry is readable, has its own key and predictions and the numbers of a
    recipe, and is as the maintainers listed it. `validate` checks the rest. What is left out is among the findings.

    Raises:
        Refused: the folder is too large, or cannot be listed.
    """
    bundle = read_bundle(folder) if folder.is_dir() else Bundle()
    verdicts = bundle.verdicts.by_key()
    problems = {entry.file: _problem(entry, verdicts.get(entry.key)) for entry in bundle.entries}
    bundle.entries = [entry for entry in bundle.entries if not problems[entry.file]]
    bundle.findings += [Finding(file, problem) for file, problem in problems.items() if problem]
    return bundle


def read_entry(file: Path) -> tuple[Record, str]:
    """Read one entry of a results folder: its record and its status.

    Raises:
        StoreError: it cannot be read, or is not what it says.
    """
    folder = file.parent.parent
    entry = read_entry_file(folder, f"{file.parent.name}/{file.name}")
    verdict = read_verdicts(folder).by_key().get(entry.key)
    if problem := _problem(entry, verdict):
        raise StoreError(str(problem))
    return entry.record, status_of(verdict)


def _problem(entry: EntryFile, verdict: Verdict | None) -> Problem | None:
    record, hint = entry.record, "`cakdbench validate` says more"
    if record.key != run_key(record.identity) or entry.file != entry.place:
        return Problem("its key or its place is not its own", hint)
    if entry.predictions_sha256 != record.predictions_sha256:
        return Problem("its predictions are not those of the record", hint)
    if verdict and verdict.sha256 != entry.sha256:
        return Problem(f"was changed after it had been found {verdict.status}", hint)
    try:
        read_recipe(record.recipe_name, record.identity.recipe)
    except Refused as error:
        return error.problem
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


def labels_name(dataset: str, fingerprint: str) -> str:
    """Return the name of a dataset's file of test labels."""
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', dataset)}-{fingerprint[:16]}.npy"


def load_labels(folder: Path, dataset: str, fingerprint: str, skipped: int = 0) -> np.ndarray | None:
    """Return the `(N,)` uint16 classes of a dataset's test images from the folder of labels; None if not there.

    Args:
        skipped: how many images of it were left out.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / labels_name(dataset, fingerprint)
    if not is_name(path.name) or path.parent != folder or not path.exists():
        return None
    hint = "restore it, or remove it and keep the dataset at hand"
    try:
        labels = read_classes(path)
    except Refused as error:
        raise StoreError(f"damaged file {path}: {error.problem.what}; {hint}") from error
    if reason := false_labels(dataset, fingerprint, labels, skipped):
        raise StoreError(f"damaged file {path}: these are not the test labels of {dataset}, {reason}; {hint}")
    return labels
