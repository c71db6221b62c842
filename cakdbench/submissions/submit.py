"""Make entries of finished runs: check them, then put them into the results folder."""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cakdbench.data.datasets import load_as_seen
from cakdbench.data.holdout import is_holdout
from cakdbench.store import RunFolder, Store, find_keys, run_key, write_atomic
from cakdbench.submissions.bundle import SCHEMA_FILE, Bundle, read_bundle
from cakdbench.submissions.entry import Entry, entry_bytes, entry_schema
from cakdbench.submissions.evidence import labels_folder, labels_name
from cakdbench.submissions.findings import Finding
from cakdbench.submissions.reading import is_name
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import examine
from cakdbench.utils.errors import StoreError, UsageError
from cakdbench.utils.text import printable


@dataclass(frozen=True)
class Submitter:
    """Who submits runs, and where to read more."""

    submitted_by: str
    paper: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Submission:
    """The outcome of a submission.

    Attributes:
        written: files. there: keys that were there already.
        findings: that stopped the others. damaged: what is wrong with runs that were left out.
    """

    written: tuple[Path, ...]
    there: tuple[str, ...]
    findings: tuple[Finding, ...]
    damaged: tuple[str, ...] = ()


def find_runs(names: Iterable[str], store: Store) -> list[RunFolder]:
    """Return the finished runs that are meant by keys, beginnings of keys, paths of run folders, or `all`.

    Trials of `cakdbench tune` are none of `all`: no board has them.

    Raises:
        UsageError: a name means no run, or one that is not finished.
    """
    runs = {run.key: run for run in store.runs()}
    chosen: dict[str, RunFolder] = {}
    for name in names:
        for run in _named(name, runs):
            if name != "all" and not run.was_done:
                raise UsageError(f"{run.key} is {run.state()}, not done: run the grid to its end before you submit")
            if run.was_done and not (name == "all" and _is_trial(run)):
                chosen[run.key] = run
    if not chosen:
        raise UsageError(f"no finished runs in {store.root}: name the store with --store, or see `cakdbench status`")
    return list(chosen.values())


def _is_trial(run: RunFolder) -> bool:
    try:
        return is_holdout(run.identity().dataset.name)
    except StoreError:  # named as damaged when its files are read
        return False


def _named(name: str, runs: dict[str, RunFolder]) -> list[RunFolder]:
    if name == "all":
        return list(runs.values())
    if (Path(name) / "identity.json").is_file():
        return [RunFolder(Path(name).resolve())]
    chosen = [runs[key] for key in find_keys(name, runs)]
    if not chosen:
        raise UsageError(f"no run {name!r}: give a key, the beginning of one, a run's folder, or all")
    return chosen


def submit(runs: list[RunFolder], results: Path, submitter: Submitter, data_dir: Path | None = None) -> Submission:
    """Write the entries of runs into the results folder, if all of them pass the checks of `validate`.

    Nothing is written if one of them is refused; damaged runs are left out. The test labels of their datasets, if
    missing, and the schema of the entries are written beside them.

    Raises:
        UsageError: the submitter's name or addresses are malformed.
        StoreError: the folder cannot be written.
    """
    present = read_bundle(results) if results.is_dir() else Bundle()
    keys = {entry.key for entry in present.entries}
    new = [run for run in runs if run.key not in keys]
    there = tuple(run.key for run in runs if run.key in keys)
    entries, damaged = _entries(new, submitter)
    if not entries:
        return Submission((), there, (), damaged)
    labels = _labels(list(entries), labels_folder(results), data_dir)
    files = {results / file: content for pair in entries.values() for file, content in pair.items()}
    _check_no_links(results, files)
    findings = _examined(files, labels, present, results, data_dir)
    if any(finding.refused for finding in findings):
        return Submission((), there, findings, damaged)
    for path, content in {**files, **labels, results / SCHEMA_FILE: schema_bytes()}.items():
        write_atomic(path, content)
    return Submission((*files, *labels), there, findings, damaged)


def _entries(runs: list[RunFolder], submitter: Submitter) -> tuple[dict[RunFolder, dict[str, bytes]], tuple[str, ...]]:
    """Return the files of each run's entry, and what is wrong with the runs that are damaged."""
    entries, damaged = {}, []
    for run in runs:
        try:
            entries[run] = dict(_entry_files(run, submitter))
        except StoreError as error:
            damaged.append(str(error))
    return entries, tuple(damaged)


def _check_no_links(results: Path, files: Iterable[Path]) -> None:
    """Check that no folder of the entries is a link, which would lead elsewhere.

    Raises:
        StoreError: one is.
    """
    for folder in {results, labels_folder(results), *(path.parent for path in files)}:
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link: put a folder in its place")


def _entry_files(run: RunFolder, submitter: Submitter) -> Iterator[tuple[str, bytes]]:
    """Yield the two files of an entry, relative to the results folder.

    Raises:
        StoreError: the run is damaged, or its key is not its own and might lead out of the folder.
    """
    record = run.record()
    if record.key != run_key(record.identity) or not is_name(record.key):
        raise StoreError(
            f"{run.path}: its key {printable(record.key[:120])} is not that of its identity: it was edited"
        )
    run.check()
    try:
        entry = Entry(record=record, **vars(submitter))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{told}; give --by NAME, and https addresses as --paper and --code") from error
    stem = f"{record.identity.method.id}/{record.key}"
    yield f"{stem}.json", entry_bytes(entry)
    try:
        yield f"{stem}.npy", run.predictions.read_bytes()
    except OSError as error:
        raise StoreError(f"missing file {run.predictions}: run the same command again, it computes the run") from error


def _labels(runs: list[RunFolder], folder: Path, data_dir: Path | None) -> dict[Path, bytes]:
    """Return the files of test labels that are not there yet; none for a dataset that is not at hand."""
    files: dict[Path, bytes] = {}
    for identity in {run.identity().dataset.fingerprint: run.identity() for run in runs}.values():
        path = folder / labels_name(identity.dataset.name, identity.dataset.fingerprint)
        if path.exists():
            continue
        try:
            data = load_as_seen(identity.dataset.name, identity.dataset.skipped, data_dir, download=False)
        except UsageError:
            continue
        if data.fingerprint == identity.dataset.fingerprint:
            files[path] = npy_bytes(data.test.labels)
    return files


def npy_bytes(classes: np.ndarray) -> bytes:
    """Return `(N,)` classes as a NumPy file of uint16."""
    buffer = io.BytesIO()
    np.save(buffer, classes.astype("<u2"))
    return buffer.getvalue()


def schema_bytes() -> bytes:
    """Return the content of the file `entry.schema.json`."""
    return (json.dumps(entry_schema(), indent=1, sort_keys=True) + "\n").encode()


def _examined(
    files: dict[Path, bytes], labels: dict[Path, bytes], present: Bundle, results: Path, data_dir: Path | None
) -> tuple[Finding, ...]:
    """Return the findings against new entries, read back from a folder of their own, beside those that are there."""
    known = {path: path.read_bytes() for path in labels_folder(results).glob("*.npy")}
    with tempfile.TemporaryDirectory(prefix="cakdbench-submit-") as draft:
        for path, content in (files | known | labels).items():
            write_atomic(Path(draft) / path.relative_to(results.parent), content)
        root = Path(draft) / results.name
        bundle = read_bundle(root)
        own = {entry.file for entry in bundle.entries} | {finding.file for finding in bundle.findings}
        both = Bundle([*present.entries, *bundle.entries], {}, present.verdicts, bundle.findings)
        report = examine(both, Truth(labels_folder(root), data_dir), datetime.now(UTC))
    return tuple(finding for finding in report.findings if finding.file in own)
