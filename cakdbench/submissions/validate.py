"""Check a results folder, a method's folder or one entry against what the receiving side knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cakdbench.grid.suites import Pair
from cakdbench.submissions.bundle import SCHEMA_FILE, Bundle, read_bundle
from cakdbench.submissions.checks import CHECKS
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.crossing import cross_checks, teacher_name, teacher_of
from cakdbench.submissions.evidence import labels_name
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.reading import is_name
from cakdbench.submissions.status import (
    EXTERNAL,
    RESCORED,
    STATUS_FILE,
    AcceptedTeacher,
    Verdict,
    Verdicts,
    status_of,
    write_verdicts,
)
from cakdbench.submissions.truth import Truth
from cakdbench.utils.errors import UsageError


@dataclass(frozen=True)
class Line:
    """An entry in the summary; `rescored`: its accuracy was computed anew from its predictions, and is right."""

    file: str
    top1: float
    status: str
    rescored: bool


@dataclass(frozen=True)
class Report:
    """The outcome of a validation: all findings, and the entries without a refusal."""

    findings: tuple[Finding, ...]
    lines: tuple[Line, ...]

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


def validate(path: Path, truth: Truth, now: datetime | None = None) -> Report:
    """Check what lies at `path`, beside everything else in its results folder.

    Args:
        now: the time no run can have finished after; default: the present.

    Raises:
        UsageError: there is nothing at the path.
        Refused: the folder is too large, or cannot be listed.
    """
    root, chosen = results_root(path)
    bundle = read_bundle(root)
    report = examine(bundle, truth, now or datetime.now(UTC))
    if not chosen:
        return report
    findings = tuple(f for f in report.findings if f.file.startswith(chosen))
    return Report(findings, tuple(line for line in report.lines if line.file.startswith(chosen)))


def examine(bundle: Bundle, truth: Truth, now: datetime) -> Report:
    """Run all checks on all entries."""
    listed = bundle.verdicts.by_key()
    accepted = {verdict.sha256 for verdict in bundle.verdicts.entries}
    cases = [Case(entry, truth, now, entry.sha256 in accepted) for entry in bundle.entries]
    findings = [*bundle.findings, *_altered(bundle), *_external(bundle), *_labels(bundle, truth)]
    for case in cases:
        findings += _findings(case)
    first = sorted(cases, key=lambda case: not case.accepted)  # of two that clash, the newcomer is refused
    findings += cross_checks([case.entry for case in first], bundle.verdicts.teachers)
    wrong = {finding.file for finding in findings if finding.refused}
    lines = [_line(case, listed) for case in cases if case.entry.file not in wrong]
    lines += [Line(f, e.accuracy, EXTERNAL, False) for f, e in bundle.external.items() if f not in wrong]
    return Report(tuple(sorted(findings, key=lambda f: (not f.refused, f.file))), tuple(lines))


def _findings(case: Case) -> Iterator[Finding]:
    for check in CHECKS:
        try:
            problems = list(check(case))
        except Exception as error:  # the numbers are a stranger's: what nobody thought of is refused too
            what = f"{check.__name__} fails on it ({type(error).__name__}: {ascii(str(error))[:200]})"
            problems = [Problem(what)]
        yield from (Finding(case.entry.file, problem) for problem in problems)


def _line(case: Case, listed: dict[str, Verdict]) -> Line:
    status = status_of(listed.get(case.record.key))
    return Line(case.entry.file, case.record.result.top1, status, case.labels is not None)


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
    for dataset in dict.fromkeys(entry.record.identity.dataset for entry in bundle.entries):
        if truth.has_false_labels(dataset.name, dataset.fingerprint):
            file = f"../{truth.labels.name}/{labels_name(dataset.name, dataset.fingerprint)}"
            yield Finding(file, Problem("are not the test labels of the dataset", "restore the file"))


def _external(bundle: Bundle) -> Iterator[Finding]:
    for file, entry in bundle.external.items():
        try:
            Pair.parse(entry.pair)
        except UsageError as error:
            what = f"its pair does not exist: {error}"
            yield Finding(file, Problem(what, "name a pair as in swin_t>resnet18@cifar100"))


def accept(root: Path, report: Report, today: str) -> int:
    """Enter every re-scored entry of a report, and its teacher, in the maintainers' list; return how many are new.

    Args:
        today: date, as in 2026-01-31.
    """
    bundle = read_bundle(root)
    good = {line.file for line in report.lines if line.rescored}
    listed = bundle.verdicts.by_key()
    chosen = [entry for entry in bundle.entries if entry.file in good]
    new = [entry for entry in chosen if entry.key not in listed]
    verdicts = [Verdict(key=e.key, sha256=e.sha256, status=RESCORED, date=today) for e in new]
    teachers = list(bundle.verdicts.teachers)
    named = {(line.model, line.dataset, line.image_size) for line in teachers}
    for identity in (entry.identity for entry in chosen if entry.identity.teacher):
        if (name := teacher_name(identity)) not in named:
            named.add(name)
            sha256 = teacher_of(identity).sha256
            teachers.append(AcceptedTeacher(model=name[0], dataset=name[1], image_size=name[2], sha256=sha256))
    entries = sorted((*bundle.verdicts.entries, *verdicts), key=lambda verdict: verdict.key)
    write_verdicts(root, Verdicts(entries=tuple(entries), teachers=tuple(teachers)))
    return len(new)
