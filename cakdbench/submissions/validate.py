"""Check a results folder, a method's folder or one entry against what the receiving side knows."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cakdbench.grid.pairs import Pair
from cakdbench.records import DatasetIdentity
from cakdbench.submissions.base import Hashes, base_folder, check_base, file_hashes
from cakdbench.submissions.bundle import SCHEMA_FILE, Bundle, EntryFile, read_bundle
from cakdbench.submissions.checks.crossing import (
    ACCEPTED,
    NEW,
    OF_THE_BASE,
    REFUSED,
    cross_checks,
    known_weights,
    teacher_name,
    teacher_of,
)
from cakdbench.submissions.checks.plausible import check_agreement, check_errors
from cakdbench.submissions.evidence import labels_name
from cakdbench.submissions.examine import ALONE, Crew, Outcome, examine_entries
from cakdbench.submissions.findings import Finding, Problem, Refused
from cakdbench.submissions.reading import is_name
from cakdbench.submissions.status import (
    EXTERNAL,
    RESCORED,
    STATUS_FILE,
    AcceptedTeacher,
    TeacherName,
    Verdict,
    Verdicts,
    read_verdicts,
    status_of,
    sure_verdicts,
    write_verdicts,
)
from cakdbench.submissions.truth import Truth
from cakdbench.utils.errors import UsageError

NO_FILES: Hashes = MappingProxyType({})


@dataclass(frozen=True)
class Line:
    """An entry in the summary.

    Attributes:
        rescored: its accuracy was computed anew from its predictions, and is right.
        doubts: what is unlikely in an honest run.
    """

    file: str
    top1: float
    status: str
    rescored: bool
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of a validation: all findings, and the entries without a refusal.

    Attributes:
        unchanged: how many entries are those of the base, and were not examined again.
    """

    findings: tuple[Finding, ...]
    lines: tuple[Line, ...]
    unchanged: int = 0

    @property
    def refused(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.refused)

    @property
    def not_rescored(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if not line.rescored and line.status != EXTERNAL)


def results_root(path: Path) -> tuple[Path, str]:
    """Return the results folder a path is in, and the beginning of the names of its files that are meant.

    Raises:
        UsageError: there is nothing at the path.
    """
    path = Path(path)
    if path.is_symlink() or not path.exists():
        raise UsageError(f"no results at {path}: name a results folder, a method's folder, or an entry's JSON file")
    path = path.resolve()
    if not path.is_dir():
        if path.suffix != ".json":
            raise UsageError(f"{path} is no entry: name its JSON file, or a folder")
        return path.parent.parent, f"{path.parent.name}/{path.name}"
    if is_name(path.name) and any(item.name != SCHEMA_FILE for item in path.glob("*.json")):
        return path.parent, f"{path.name}/"
    return path, ""


def validate(
    path: Path, truth: Truth, now: datetime | None = None, base: str | None = None, crew: Crew = ALONE
) -> Report:
    """Check what lies at `path`, beside everything else in its results folder.

    Args:
        now: the time no run can have finished after; default: the present.
        base: the results that these were made from, a folder or a revision of git: what of them is gone or was changed
            is refused, and what is as it was is not examined again. The statuses are those of the base.

    Raises:
        UsageError: there is nothing at the path, or no such base.
        Refused: the folder is too large, or cannot be listed.
    """
    root, chosen = results_root(path)
    bundle, now = read_bundle(root), now or datetime.now(UTC)
    if base is None:
        report = examine(bundle, truth, now, crew=crew)
    else:
        with base_folder(base, root) as folder:
            before, bundle.verdicts = file_hashes(folder), read_verdicts(folder)
        bundle.findings += check_base(before, file_hashes(root))
        report = examine(bundle, truth, now, before, crew)
    if not chosen:
        return report
    findings = tuple(f for f in report.findings if f.file.startswith(chosen))
    return replace(
        report, findings=findings, lines=tuple(line for line in report.lines if line.file.startswith(chosen))
    )


def examine(bundle: Bundle, truth: Truth, now: datetime, base: Hashes = NO_FILES, crew: Crew = ALONE) -> Report:
    """Run all checks on all entries that are not those of the base, and compare them with all others."""
    listed = bundle.verdicts.by_key()
    accepted = {entry.file for entry in bundle.entries if _is_accepted(entry, listed.get(entry.key))}
    old = {entry.file for entry in bundle.entries if _is_unchanged(entry, base)}
    new = [entry for entry in bundle.entries if entry.file not in old]
    outcomes = dict(zip((entry.file for entry in new), examine_entries(new, accepted, truth, now, crew)))
    findings = [*bundle.findings, *_altered(bundle), *_external(bundle), *_labels(bundle, truth)]
    findings += [finding for outcome in outcomes.values() for finding in outcome.findings]
    wrong = {finding.file for finding in findings if finding.refused}
    # Later ones go before: an accepted entry that today's checks refuse is still no copy of another.
    ages = {entry.file: NEW for entry in new} | dict.fromkeys(old, OF_THE_BASE)
    ages |= dict.fromkeys(wrong, REFUSED) | dict.fromkeys(accepted, ACCEPTED)
    findings += cross_checks(bundle.entries, bundle.verdicts.by_teacher(), lambda entry: ages[entry.file])
    findings += check_agreement(bundle.entries, lambda entry: ages[entry.file])
    findings += check_errors(bundle.entries, functools.partial(_known_labels, truth), lambda entry: ages[entry.file])
    kept = old | {_predictions(file) for file in old}
    findings = [finding for finding in findings if finding.file not in kept]
    wrong = {finding.file for finding in findings if finding.refused}
    doubts: dict[str, list[str]] = {}
    for finding in findings:
        if finding.problem.doubt:
            doubts.setdefault(finding.file, []).append(finding.problem.what)
    lines = [_line(entry, listed, outcomes[entry.file], doubts) for entry in new if entry.file not in wrong]
    lines += [Line(f, e.accuracy, EXTERNAL, False) for f, e in bundle.external.items() if f not in wrong]
    return Report(tuple(sorted(findings, key=lambda f: (not f.refused, f.file))), tuple(lines), len(old))


def _line(entry: EntryFile, listed: Mapping[str, Verdict], outcome: Outcome, doubts: Mapping[str, list[str]]) -> Line:
    top1, status = entry.record.result.top1, status_of(listed.get(entry.key))
    return Line(entry.file, top1, status, outcome.rescored, tuple(doubts.get(entry.file, ())))


def _is_accepted(entry: EntryFile, verdict: Verdict | None) -> bool:
    """Return True for an entry that maintainers have listed as it is, in its own place; a copy elsewhere is none."""
    return verdict is not None and verdict.sha256 == entry.sha256 and entry.file == entry.place


def _is_unchanged(entry: EntryFile, base: Hashes) -> bool:
    present = base.get(entry.file), base.get(_predictions(entry.file))
    return present == (entry.sha256, entry.predictions_sha256)


def _predictions(file: str) -> str:
    return file.removesuffix(".json") + ".npy"


def _altered(bundle: Bundle) -> Iterator[Finding]:
    """Yield the entries on the maintainers' list that are missing, or are not as they were."""
    entries = {entry.key: entry for entry in bundle.entries}
    for verdict in bundle.verdicts.entries:
        if verdict.key not in entries:
            what = f"lists {verdict.key[:200]}, which is missing or cannot be read"
            yield Finding(STATUS_FILE, Problem(what, "put it back: entries are removed by the maintainers"))
        elif entries[verdict.key].sha256 != verdict.sha256:
            what = f"was changed after it had been found {verdict.status} on {verdict.date}"
            yield Finding(entries[verdict.key].file, Problem(what, "put the accepted file back"))


def _labels(bundle: Bundle, truth: Truth) -> Iterator[Finding]:
    skipped: dict[tuple[str, str], int] = {}
    for data in (entry.identity.dataset for entry in bundle.entries):
        place = data.name, data.fingerprint
        skipped[place] = max(skipped.get(place, 0), data.skipped or 0)
    for place, count in skipped.items():
        if truth.has_false_labels(*place, count):
            file = f"../{truth.labels.name}/{labels_name(*place)}"
            yield Finding(file, Problem("are not the test labels of the dataset", "restore the file"))


def _known_labels(truth: Truth, data: DatasetIdentity) -> np.ndarray | None:
    with contextlib.suppress(Refused):  # said of each entry
        return truth.test_labels(data.name, data.fingerprint)
    return None


def _external(bundle: Bundle) -> Iterator[Finding]:
    for file, entry in bundle.external.items():
        try:
            Pair.parse(entry.pair)
        except UsageError as error:
            what = f"its pair does not exist: {error}"
            yield Finding(file, Problem(what, "name a pair as in swin_t>resnet18@cifar100"))


def accept(root: Path, report: Report, today: str, doubtful: bool = False) -> int:
    """Enter re-scored entries of a report, and their teachers, in the maintainers' list; return how many are new.

    An entry waits as long as the weights of its teacher are not known (see `known_weights`).

    Args:
        today: date, as in 2026-01-31.
        doubtful: enter those with an unlikely number, too.

    Raises:
        StoreError: the list cannot be read; writing it anew would throw its statuses away.
    """
    bundle = read_bundle(root)
    bundle.verdicts = sure_verdicts(root)
    good = {line.file for line in report.lines if line.rescored and (doubtful or not line.doubts)}
    chosen = [entry for entry in bundle.entries if entry.file in good]
    teachers = _teachers(chosen, bundle.verdicts)
    listed = bundle.verdicts.by_key()
    new = [entry for entry in chosen if entry.key not in listed and _is_known(entry, teachers)]
    verdicts = [Verdict(key=e.key, sha256=e.sha256, status=RESCORED, date=today) for e in new]
    entries = sorted((*bundle.verdicts.entries, *verdicts), key=lambda verdict: verdict.key)
    present = bundle.verdicts.by_teacher()
    added = [AcceptedTeacher.named(name, sha256) for name, sha256 in teachers.items() if name not in present and sha256]
    write_verdicts(root, Verdicts(entries=tuple(entries), teachers=(*bundle.verdicts.teachers, *added)))
    return len(new)


def _teachers(entries: list[EntryFile], verdicts: Verdicts) -> Mapping[TeacherName, str | None]:
    """Return the sha256 that each teacher of the registry, which the entries name, must have, where it is known."""
    standard = [entry for entry in entries if entry.record.teacher and entry.record.teacher.standard]
    names = dict.fromkeys(teacher_name(entry.identity) for entry in standard)
    return {name: known_weights(name, entries, verdicts.by_teacher()) for name in names}


def _is_known(entry: EntryFile, teachers: Mapping[TeacherName, str | None]) -> bool:
    """Return True for an entry without teacher, with one that boards set aside anyway, or with known weights."""
    facts = entry.record.teacher
    if facts is None or not facts.standard:
        return True
    return teachers[teacher_name(entry.identity)] == teacher_of(entry.identity).sha256
