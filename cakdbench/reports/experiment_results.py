"""What was measured for the printed numbers of an experiment, and what can be said of the two."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import pandas as pd

from cakdbench import labels
from cakdbench.grid.experiments import TEACHER, Experiment, Place, Spot
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import PairSpec
from cakdbench.grid.teachers import load_teachers
from cakdbench.published.ledger import Printed
from cakdbench.records import Record
from cakdbench.reports.eligibility import sort_runs
from cakdbench.reports.page_reproduction import Comparison, Verdict
from cakdbench.reports.printed import contradicted
from cakdbench.reports.standard import Column, Standard, column_of
from cakdbench.results.cells import method_scores
from cakdbench.results.frame import StoredRecord, runs_frame
from cakdbench.results.load import Evidence
from cakdbench.results.ranking import settled_runs
from cakdbench.submissions.status import CLAIMED

VERDICTS = {Verdict.REPRODUCED: "within noise", Verdict.NOT_REPRODUCED: "off", Verdict.NOT_MEASURED: "not measured"}
NUMBERS = {
    **{"top1": "top1", "student_top1": "top1", "top5": "top5", "assistant_top1": "top1_assistant"},
    "memory_gb": "memory_gb",
}
"""The columns of runs that are measured for each metric."""


@dataclass(frozen=True)
class Measured:
    """Our number for a printed one: mean and deviation over `n` seeds, in the unit of the metric.

    Attributes:
        gain: over scratch, mean over the seeds that both have.
        ranked: the seeds are those that the rules rank by.
    """

    n: int = 0
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    ranked: bool = False


class Results:
    """The standard runs of an experiment, of the precision that most of them have, mere claims not counted.

    Args:
        settings: numbers of the recipes and of the teachers' that differ from the shipped ones: runs that have them
            count, and are not judged.

    Attributes:
        changed: those numbers, by dotted name.
        excluded, other_recipes: as of a board; excluded are those of the experiment's methods.
        other_precisions: how many runs would count but for their precision, by its name.
    """

    def __init__(self, experiment: Experiment, evidence: Evidence, settings: Settings | None = None):
        self.experiment = experiment
        self.settings = settings = settings or Settings()
        self.changed = settings.recipe | {f"teacher.{key}": value for key, value in settings.teacher.items()}
        self.is_judged = not (experiment.tiny or self.changed)
        self.rules = Standard(evidence.data_dir)
        self.statuses = evidence.statuses
        specs = dict.fromkeys(spec for specs in experiment.grids().values() for spec in specs)
        self.columns = {spec: self._column(spec, evidence) for spec in specs}
        methods = {labels.split(spot.entry.label)[0] for spot in experiment.spots if spot.runs}
        records = _taught_by(settings.teacher, evidence.records) if settings.teacher else evidence.records
        runs = sort_runs(records, list(self.columns.values()), self.rules, evidence.statuses)
        self.excluded = [run for run in runs.excluded if run.record.identity.method.id in methods]
        self.other_recipes = runs.other_recipes
        sizes: Counter[str] = Counter()
        for (precision, _), group in runs.counting.items():
            sizes[precision] += sum(self.statuses.get(record.key) != CLAIMED for record in group)
        self.precision = max(sizes, key=lambda name: (sizes[name], name), default="fp32")
        self.other_precisions = {name: count for name, count in sizes.items() if name != self.precision}
        counting = {spec: runs.counting.get((self.precision, column), ()) for spec, column in self.columns.items()}
        self.runs = {spec: self._frame(records) for spec, records in counting.items()}
        numbers = {NUMBERS[metric] for metric in experiment.file.metrics if metric in NUMBERS}
        self.scores = {
            (spec, number): method_scores(frame, number)
            for spec, frame in self.runs.items()
            for number in numbers & {*frame}
        }

    def _frame(self, records: Iterable[Record]) -> pd.DataFrame:
        """Return runs as a frame, with their peak memory in 2^30 bytes."""
        runs = runs_frame(StoredRecord(record, status=self.statuses.get(record.key)) for record in records)
        return runs.assign(memory_gb=runs["peak_memory_mb"] / 1024)

    def _column(self, spec: PairSpec, evidence: Evidence) -> Column:
        column = column_of(spec, self.experiment.file.protocol, evidence.data_dir)
        return replace(column, numbers=spec.load_recipe(self.settings.recipe).numbers())

    def column(self, spot: Spot) -> Column | None:
        """Return the pair and recipe of what runs for a printed number; the start of a chain is no setting of it."""
        column = self.columns.get(spot.spec) if spot.spec and not spot.why else None
        if column and column.init:
            return replace(column, numbers={**column.numbers, "init": "random"})
        return column

    @cached_property
    def ours(self) -> dict[Place, Measured]:
        """Return what was measured for each printed number."""
        return {spot.place: self._measure(spot) for spot in self.experiment.spots}

    def _measure(self, spot: Spot) -> Measured:
        column = self.column(spot)
        if column is None or spot.spec is None:
            return Measured()
        runs = self.runs[spot.spec]
        if is_teacher(spot):
            known = settled_runs(runs)["teacher_top5" if spot.metric == "top5" else "teacher_top1"].dropna()
            return Measured(1, fmean(known)) if len(known) else Measured()
        scores = self.scores.get((spot.spec, NUMBERS[spot.metric]), {})
        own = scores.get(self.rules.canonical(spot.entry.label, column))
        return Measured(**{name: own[name] for name in ("n", "mean", "sd", "gain", "ranked")}) if own else Measured()

    def predicted_memory(self, spot: Spot) -> float | None:
        """Return the predicted peak of the run behind a printed memory, alone, in 2^30 bytes; None of other numbers."""
        if spot.metric != "memory_gb" or not spot.runs or spot.spec is None:
            return None
        from cakdbench.engine.memory import predict_peak
        from cakdbench.engine.work import list_work

        settings = Settings(recipe=self.settings.recipe)
        cells = make_plan([spot.entry.label], [spot.spec], [0], settings, self.precision, always=()).cells
        peak = predict_peak(list_work(cells)[0])
        return peak.total / 2**30 if peak else None

    def refusal(self, spot: Spot) -> str | None:
        """Return why nothing runs for a printed number; None if something does."""
        column = self.column(spot)
        if column is None:
            return spot.why
        return None if is_teacher(spot) else self.rules.refusal(spot.entry.label, column)

    def contradicted(self, spot: Spot) -> bool:
        """Return True if a setting here is one that none of the source's statements has."""
        column, printed = self.column(spot), accuracy(spot)
        return self.is_judged and column is not None and printed is not None and bool(contradicted(column, printed))

    def comparison(self, spot: Spot, measured: Measured) -> Comparison | None:
        """Return a student's accuracy beside ours, by the rule of the reproduction ledger; None of other numbers."""
        column, printed = self.column(spot), accuracy(spot)
        if column is None or printed is None:
            return None
        return Comparison(column, printed, None, measured.n, measured.mean, measured.sd, ranked=measured.ranked)


def _taught_by(changed: Mapping[str, Any], records: Sequence[Record]) -> list[Record]:
    """Return runs as if the registry's teachers were trained by recipes with changed numbers."""
    trained = {name: entry.training_recipe() for name, entry in load_teachers().items() if entry.train}
    numbers = {name: recipe.override(changed).numbers() for name, recipe in trained.items()}
    made = {r.weights_sha256 for r in records if numbers.get((r.identity.student, r.identity.dataset.name)) == r.recipe}
    judged = []
    for record in records:
        teacher, facts = record.identity.teacher, record.teacher
        if teacher and facts and (teacher.model, record.identity.dataset.name) in trained:
            as_told, told = teacher.sha256 in made, "" if not facts.standard else " without the changed numbers"
            known = {"standard": True} if as_told else {"standard": False, "source": facts.source + told}
            record = record.model_copy(update={"teacher": facts.model_copy(update=known)})
        judged.append(record)
    return judged


def is_teacher(spot: Spot) -> bool:
    """Return True for the accuracy of a teacher."""
    return spot.entry.id == TEACHER or spot.metric == "teacher_top1"


def accuracy(spot: Spot) -> Printed | None:
    """Return the printed accuracy of a network that is trained; None of other numbers."""
    return None if is_teacher(spot) else spot.printed


def verdict_text(compared: Comparison) -> str:
    """Return a verdict in the words of the page, with the reason where it is none."""
    if compared.verdict is Verdict.NOT_COMPARABLE:
        return f"not comparable: {compared.objection}"
    return VERDICTS[compared.verdict]
