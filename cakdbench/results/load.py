"""Records and where they lie: of stores, results folders, and single runs or entries."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from cakdbench.records import Epoch, Record
from cakdbench.results.frame import StoredRecord, check_columns, runs_frame, typed_frame
from cakdbench.results.predictions import CorrectAnswers
from cakdbench.store import RunFolder, Store, one_key
from cakdbench.submissions.entry import ExternalEntry
from cakdbench.submissions.evidence import read_entry, read_results
from cakdbench.submissions.status import CLAIMED, status_of
from cakdbench.utils.errors import StoreError, UsageError

STORE, RESULTS = Path("runs"), Path("leaderboards/results")
"""The folders of a command's runs, and of the submitted ones of a checkout."""
EPOCH_TYPES = {
    **dict.fromkeys(("key", "method", "pair"), "str"),
    **{"seed": "int64", "epoch": "int64"},
    **dict.fromkeys(("lr", "train_top1", "top1", "ema_top1"), "float64"),
}
"""The columns of `history` and their types, in order; after them a column a loss."""
CORRUPTED_TYPES = {
    **dict.fromkeys(("key", "method", "pair"), "str"),
    **{"seed": "int64", "corruption": "str"},
    **dict.fromkeys(("severity", "strength", "top1", "drop", "top5", "ema_top1"), "float64"),
}
"""The columns of `robustness` and their types, in order."""


class Evidence:
    """The records of stores and results folders, with what is known beyond them.

    A run that is in a store and submitted counts once: as accepted, else as one's own, else as claimed.

    Args:
        store: finished runs of one's own; None for none.
        results: the folder of submitted results; one that does not exist has none.
        data_dir: where the datasets lie, for test labels that are not beside the results.

    Attributes:
        stored: the records with their files, in the order of their keys.
        external: submitted numbers that were measured with other code.
        damage: a sentence for each file that cannot be read, and one if runs are here twice with other numbers.
    """

    def __init__(self, store: Store | None = None, results: Path | None = None, data_dir: Path | None = None):
        self.store = store
        self.data_dir = data_dir
        self.external: tuple[ExternalEntry, ...] = ()
        self.damage: list[str] = []
        self._by_key: dict[str, StoredRecord] = {}
        self._different: dict[str, tuple[float, float]] = {}
        if store:
            self._add_store(store)
        if results:
            self._add_results(results)
        self._tell_different()

    @classmethod
    def read(cls, paths: Iterable[Path], data_dir: Path | None = None) -> "Evidence":
        """Read stores, results folders, run folders and entries.

        Raises:
            UsageError: there is nothing at a path, or what is there is none of these.
        """
        evidence = cls(data_dir=data_dir)
        for path in paths:
            evidence._add(Path(path))
        evidence._tell_different()
        return evidence

    @property
    def stored(self) -> list[StoredRecord]:
        return [self._by_key[key] for key in sorted(self._by_key)]

    @property
    def records(self) -> list[Record]:
        """The records, in the order of their keys."""
        return [run.record for run in self.stored]

    @property
    def settled(self) -> list[Record]:
        """The records that are not mere claims, in the order of their keys."""
        return [run.record for run in self.stored if run.status != CLAIMED]

    @property
    def statuses(self) -> dict[str, str]:
        """Claimed, re-scored or re-run, of the submitted records by key."""
        return {run.record.key: run.status for run in self.stored if run.status}

    @functools.cached_property
    def answers_by_key(self) -> CorrectAnswers:
        """The test images that a run classified right, by its key."""
        return CorrectAnswers(runs_frame(self.stored), self.data_dir)

    def _add(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"no results at {path}: name a store, a results folder, a run's folder or an entry")
        if path.name == "record.json" or is_run_folder(path):
            self._add_run(RunFolder(path if path.is_dir() else path.parent))
        elif path.is_file():
            self._add_entry(path)
        elif any(map(is_run_folder, path.iterdir())) or not any(path.iterdir()):
            self._add_store(Store(path))
        elif any(path.glob("*/*.json")):
            self._add_results(path)
        elif entries := sorted(path.glob("*.json")):
            for entry in entries:
                self._add_entry(entry)
        else:
            raise UsageError(f"{path} holds no runs: name a store, a results folder, a run's folder or an entry")

    def _add_store(self, store: Store) -> None:
        records, damage = store.records()
        self.damage += damage
        for record in records:
            self._take(record, store.root / record.key / "record.json")

    def _add_run(self, run: RunFolder) -> None:
        try:
            self._take(run.check_result(), run.path / "record.json")
        except StoreError as error:
            self.damage.append(str(error))

    def _add_results(self, folder: Path) -> None:
        try:
            bundle = read_results(folder)
        except StoreError as error:
            self.damage.append(f"{folder}: {error}")
            return
        verdicts = bundle.verdicts.by_key()
        for entry in bundle.entries:
            self._take(entry.record, folder / entry.file, status_of(verdicts.get(entry.key)))
        self.external += tuple(bundle.external.values())
        self.damage += [f"{folder}/{finding}" for finding in bundle.findings]

    def _add_entry(self, path: Path) -> None:
        try:
            record, status = read_entry(path)
            self._take(record, path, status)
        except StoreError as error:
            self.damage.append(f"{path}: {error}")

    def _take(self, record: Record, path: Path, status: str | None = None) -> None:
        """Keep a record; an accepted one goes before one that is not submitted, and that before a claim."""
        new = StoredRecord(record, path, status)
        present = self._by_key.setdefault(record.key, new)
        first, other = sorted((present, new), key=_precedence)
        self._by_key[record.key] = first
        if first.record.result != other.record.result:
            self._different[record.key] = first.record.result.top1, other.record.result.top1

    def _tell_different(self) -> None:
        if self._different:
            key, (kept, left) = min(self._different.items())
            text = f"{len(self._different)} runs are here twice with other numbers, as {key}: {kept:.2f} % counts"
            order = "accepted entries go before own runs, these before claims"
            self.damage.append(f"{text}, {left:.2f} % does not; {order}")


def _precedence(run: StoredRecord) -> int:
    return 1 if run.status is None else 2 if run.status == CLAIMED else 0


def is_run_folder(path: Path) -> bool:
    """Return True for the folder of a run."""
    return (path / "record.json").is_file() or (path / "identity.json").is_file()


def default_paths() -> list[Path]:
    """Return the store, and the results folder of the checkout around the working directory, if they exist.

    Raises:
        UsageError: neither does.
    """
    folder = Path.cwd()
    results = (parent / RESULTS for parent in (folder, *folder.parents))
    paths = [Path(os.environ.get("CAKDBENCH_STORE", STORE)), next(filter(Path.is_dir, results), RESULTS)]
    if existing := [path for path in paths if path.is_dir()]:
        return existing
    raise UsageError(f"neither {paths[0]} nor {RESULTS} is here: name a store or a results folder")


def find_run(name: str, evidence: Evidence, what: str = "run", others: Iterable[str] = ()) -> Record:
    """Return the run that a key, the start of one, or a run's folder names.

    Args:
        what, others: what else the name could have been, and the names of those, for the error.

    Raises:
        UsageError: there is none, or there are several.
    """
    if is_run_folder(Path(name)):
        return RunFolder(Path(name)).record()
    by_key = {record.key: record for record in evidence.records}
    return by_key[one_key(name, by_key, what, others)]


def history(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the training histories of runs, a row an epoch.

    Columns: key, method, pair, seed of the run; epoch from 0, lr, train_top1, top1 and ema_top1 on the test set where
    they were measured, and for every loss its mean over the epoch's steps: loss_label, loss_kd, ...; missing where a
    method has no such loss.

    Args:
        runs: of `load_results`.

    Raises:
        UsageError, StoreError: the frame names no files, or they cannot be read.
    """
    names = ["key", "method", "pair", "seed"]
    check_columns(runs, [*names, "path"])
    rows: list[dict[str, Any]] = []
    for run, path in zip(runs[names].to_dict("records"), runs["path"]):
        rows += [run | _epoch_row(epoch) for epoch in _read_record(Path(path)).history]
    losses = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    return typed_frame(rows, EPOCH_TYPES | dict.fromkeys(losses, "float64"))


def robustness(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies of runs under the corruptions that their recipes ask for, a row a run and corruption.

    Columns: key, method, pair, seed of the run; corruption, its kind; severity of ImageNet-C, missing for other
    strengths; strength; top1 and top5 in percent; drop, the points of top1 that the corruption costs; ema_top1 of the
    averaged weights. Runs whose recipe has no `evaluation.corruptions` have no rows: `cakdbench evaluate` tests them.

    Args:
        runs: of `load_results`.

    Raises:
        UsageError, StoreError: the frame names no files, or they cannot be read.
    """
    names = ["key", "method", "pair", "seed"]
    check_columns(runs, [*names, "path"])
    rows: list[dict[str, Any]] = []
    for run, path in zip(runs[names].to_dict("records"), runs["path"]):
        result = _read_record(Path(path)).result
        for each in result.corruptions or ():
            values = {"corruption": each.kind, "drop": result.top1 - each.top1, **each.model_dump(exclude={"kind"})}
            rows.append(run | values)
    return typed_frame(rows, CORRUPTED_TYPES)


def _epoch_row(epoch: Epoch) -> dict[str, Any]:
    values = epoch.model_dump()
    losses = values.pop("losses")
    return values | {f"loss_{name}": value for name, value in losses.items()}


def _read_record(path: Path) -> Record:
    """Read a record's file, of a store or of a results folder."""
    return RunFolder(path.parent).record() if path.name == "record.json" else read_entry(path)[0]
