"""A results folder in memory: every entry that could be read, and what is wrong with the other files.

results/<method>/<key>.json    an `Entry`
results/<method>/<key>.npy     its predictions: `(N,)` uint16
results/external/<name>.json   an `ExternalEntry`
results/status.toml            the maintainers' list
results/entry.schema.json      the schema of the entries
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cakdbench.records import Identity, Record
from cakdbench.submissions.entry import Entry, ExternalEntry
from cakdbench.submissions.findings import Finding, Problem, Refused
from cakdbench.submissions.normal import check_normal
from cakdbench.submissions.reading import (
    JSON_BYTES,
    NPY_BYTES,
    fill_model,
    parse_classes,
    parse_json,
    read_file,
    read_model,
    scan,
)
from cakdbench.submissions.status import STATUS_FILE, Verdicts, read_verdicts

SCHEMA_FILE, EXTERNAL_FOLDER = "entry.schema.json", "external"


@dataclass(frozen=True)
class EntryFile:
    """A readable entry and its files.

    Attributes:
        file: relative to the results folder.
        sha256: of the entry's file.
        predictions: `(N,)` uint16.
        predictions_sha256: of the file of predictions.
    """

    file: str
    entry: Entry
    sha256: str
    predictions: np.ndarray
    predictions_sha256: str

    @property
    def record(self) -> Record:
        return self.entry.record

    @property
    def identity(self) -> Identity:
        return self.entry.record.identity

    @property
    def key(self) -> str:
        return self.entry.key

    @property
    def place(self) -> str:
        """Return the file that the entry must be."""
        return f"{self.identity.method.id}/{self.key}.json"


@dataclass
class Bundle:
    """The content of a results folder."""

    entries: list[EntryFile] = field(default_factory=list)
    external: dict[str, ExternalEntry] = field(default_factory=dict)
    """By file."""
    verdicts: Verdicts = field(default_factory=Verdicts)
    findings: list[Finding] = field(default_factory=list)


def read_bundle(root: Path) -> Bundle:
    """Read a results folder; nothing raises but a folder that cannot be listed or is too large (`Refused`)."""
    problems = dict(scan(root))
    bundle = Bundle(findings=[Finding(file, problem) for file, problem in problems.items() if problem])
    try:
        bundle.verdicts = read_verdicts(root)
    except Refused as error:
        bundle.findings.append(Finding(STATUS_FILE, error.problem))
    files = [file for file, problem in problems.items() if not problem]
    for file in files:
        try:
            # A file that cannot be read is there: its partner must not be told that it is missing.
            _take(root, file, problems.keys(), bundle)
        except Refused as error:
            bundle.findings.append(Finding(file, error.problem))
    bundle.findings += _same_names(files, bundle.verdicts.by_key())
    return bundle


def _take(root: Path, file: str, known: Collection[str], bundle: Bundle) -> None:
    folder, _, name = file.rpartition("/")
    stem, _, kind = name.rpartition(".")
    if not folder:
        if name not in (STATUS_FILE, SCHEMA_FILE):
            raise Refused("does not belong here", f"only {STATUS_FILE} and {SCHEMA_FILE} lie beside the folders")
    elif kind == "json" and folder == EXTERNAL_FOLDER:
        bundle.external[file] = read_model(read_file(root / file, JSON_BYTES), ExternalEntry)
    elif kind == "json":
        bundle.entries.append(read_entry_file(root, file))
    elif kind != "npy" or folder == EXTERNAL_FOLDER:
        raise Refused("does not belong here", "a method's folder holds KEY.json and KEY.npy, nothing else")
    elif f"{folder}/{stem}.json" not in known:
        raise Refused("are predictions without an entry", f"add {stem}.json, or remove them")


def read_entry_file(root: Path, file: str) -> EntryFile:
    """Read an entry, `<method>/<key>.json` of a results folder, with its predictions.

    Raises:
        Refused: one of the two is missing or malformed.
    """
    content = read_file(root / file, JSON_BYTES)
    if b'"schema_version"' in content:  # a field of format 1 that no later one has
        raise Refused("is of an earlier cakdbench", f"`cakdbench migrate {root}` brings it up to date")
    raw = parse_json(content)
    entry = fill_model(raw, Entry)
    check_normal(raw["record"]["identity"], entry.record.identity)
    beside = (root / file).with_suffix(".npy")
    if not os.path.lexists(beside):
        raise Refused(f"has no predictions: {beside.name} is missing", "submit both files")
    try:
        raw = read_file(beside, NPY_BYTES)
        predictions = parse_classes(raw)
    except Refused as error:
        what = f"its predictions in {beside.name} cannot be read: the file {error.problem.what}"
        raise Refused(what, error.problem.hint) from error
    return EntryFile(file, entry, hashlib.sha256(content).hexdigest(), predictions, hashlib.sha256(raw).hexdigest())


def _same_names(files: list[str], accepted: Collection[str]) -> Iterator[Finding]:
    """Yield the files that are one with another where capital letters do not count, as on Windows and macOS.

    Args:
        accepted: keys; their files are not to blame.
    """
    spellings: dict[str, set[str]] = {}
    for name in (part for file in files for part in (file, file.rpartition("/")[0])):
        spellings.setdefault(name.lower(), set()).add(name)
    for file in files:
        folder, _, name = file.rpartition("/")
        clashes = len(spellings[file.lower()]) > 1 or len(spellings[folder.lower()]) > 1
        if clashes and name.rpartition(".")[0] not in accepted:
            what = "differs from another file, or its folder from another, in capital letters only"
            yield Finding(file, Problem(what, "rename or remove one"))
