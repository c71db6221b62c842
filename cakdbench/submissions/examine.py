"""The checks of single entries, in one process or in several."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from cakdbench.data.datasets import register_datasets
from cakdbench.registry import load_files
from cakdbench.submissions.bundle import EntryFile
from cakdbench.submissions.checks import CHECKS
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Finding, Problem
from cakdbench.submissions.truth import Truth

WORTH_IT = 400
"""Entries below which other processes would take longer to start than to help."""
CHUNK = 50


@dataclass(frozen=True)
class Crew:
    """The processes that check entries, and the files that each has to load before."""

    jobs: int = 1
    method_files: Sequence[Path] = ()
    model_files: Sequence[Path] = ()
    datasets: Sequence[Path] = ()


ALONE = Crew()


@dataclass(frozen=True)
class Outcome:
    """What the checks of one entry found; `rescored`: its accuracy was computed anew from its predictions."""

    findings: tuple[Finding, ...]
    rescored: bool


def examine_entries(
    entries: list[EntryFile], accepted: set[str], truth: Truth, now: datetime, crew: Crew
) -> list[Outcome]:
    """Check each entry by itself.

    Args:
        accepted: the files of the entries that maintainers have listed, as they are.
    """
    tasks = [(entry, entry.file in accepted, now) for entry in entries]
    if crew.jobs == 1 or len(entries) < WORTH_IT:
        return [_examine(truth, *task) for task in tasks]
    # A forked process could inherit a lock that a thread of torch holds.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(crew.jobs, context, _begin, (crew, truth.labels, truth.data_dir, truth.trusted)) as pool:
        return list(pool.map(_examine_here, tasks, chunksize=CHUNK))


_truth: list[Truth] = []
"""That of a process of a crew."""


def _begin(crew: Crew, *truth: object) -> None:
    torch.set_num_threads(1)
    load_files(crew.method_files, crew.model_files)
    for path in crew.datasets:
        register_datasets(path)
    _truth[:] = [Truth(*truth)]  # type: ignore[arg-type]


def _examine_here(task: tuple[EntryFile, bool, datetime]) -> Outcome:
    return _examine(_truth[0], *task)


def _examine(truth: Truth, entry: EntryFile, accepted: bool, now: datetime) -> Outcome:
    case = Case(entry, truth, now, accepted)
    return Outcome(tuple(_findings(case)), case.labels is not None)


def _findings(case: Case) -> Iterator[Finding]:
    for check in CHECKS:
        problems: Iterable[Problem]
        try:
            problems = list(check(case))
        except Exception as error:  # the numbers are a stranger's: what nobody thought of is refused too
            what = f"{check.__name__} fails on it ({type(error).__name__}: {ascii(str(error))[:200]})"
            problems = [Problem(what)]
        yield from (Finding(case.entry.file, problem) for problem in problems)
