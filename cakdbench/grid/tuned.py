"""The file that `cakdbench tune` writes and `cakdbench run --settings` reads: settings, and the trials behind them."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cakdbench.data.holdout import whole_name
from cakdbench.labels import split
from cakdbench.method import Method, Tunable
from cakdbench.records import Tuning
from cakdbench.registry import Kinded, resolve_config, split_variant
from cakdbench.store import write_atomic
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import Table, checked, read_toml, toml_lines

BUDGET = 20
"""Settings that may be tried per method and dataset: leaderboards/RULES.md, Settings and their tuning."""
Value = bool | int | float | str
HEAD = """\
# Written by `cakdbench tune {method}`: `cakdbench run --settings FILE --pairs ...` trains with these settings.
# Accuracies are on images held out of the training set, after the last epoch, in percent.
"""


class Range(Table):
    """What was searched of a setting; `choices`, or all between `low` and `high`."""

    low: float | None = None
    high: float | None = None
    log: bool | None = None
    choices: tuple[Value, ...] | None = None

    @classmethod
    def of(cls, declared: Tunable) -> "Range":
        if declared.choices:
            return cls(choices=declared.choices)
        return cls(low=declared.low, high=declared.high, log=declared.log)


class Search(Table):
    """Everything that decides which trials are made, and what they give.

    Attributes:
        recipes: of the pairs, in order. changed: numbers of the recipes and the teachers', as `recipe.epochs=2`.
        train, held: how many images.
        seed: of the training and of the search.
        lanes: so many trials are chosen at a time.
        identity: sha256 of what the runs of the default settings are, but for their teachers.
    """

    method: str
    pairs: tuple[str, ...]
    recipes: tuple[str, ...]
    changed: tuple[str, ...]
    dataset: str
    train: int
    held: int
    precision: str
    seed: int
    lanes: int
    identity: str
    space: dict[str, Range]


class Trial(Table):
    """One setting that was tried.

    Attributes:
        top1: mean over the pairs; None if a run failed, for the reason `failed`.
        runs: keys of the runs.
    """

    label: str
    top1: float | None = None
    failed: str | None = None
    runs: tuple[str, ...]
    settings: dict[str, Value]


class Tuned(Table):
    """A search and its trials; the first trial has the default settings."""

    label: str
    search: Search
    trials: Annotated[tuple[Trial, ...], Field(min_length=1)]

    @classmethod
    def of(cls, search: Search, trials: tuple[Trial, ...]) -> "Tuned":
        """Return the search with the best trial's label; of equal ones the first is the best."""
        best = max(trials, key=lambda trial: -1.0 if trial.top1 is None else trial.top1)
        return cls(label=best.label, search=search, trials=trials)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        values = self.model_dump(mode="json", exclude_none=True)
        trials = values.pop("trials")
        lines = [HEAD.format(method=self.search.method), *toml_lines(values)]
        for trial in trials:
            lines += ["", "[[trials]]", *toml_lines(trial, "trials")]
        write_atomic(path, ("\n".join(lines) + "\n").encode())


def read_tuned(path: Path) -> Tuned:
    """Return what a file says.

    Raises:
        UsageError: it is missing, or none that `cakdbench tune` wrote.
    """
    return checked(Tuned, read_toml(path), path)


def other_trials(path: Path, search: Search) -> int:
    """Count the trials of a method on a dataset in the files beside one."""
    spent = 0
    for other in {*path.parent.glob("*.toml")} - {path}:
        with contextlib.suppress(UsageError):  # a file of something else
            tuned = read_tuned(other)
            same = split(tuned.search.method)[0] == split(search.method)[0] and tuned.search.dataset == search.dataset
            spent += len(tuned.trials) * same
    return spent


def tunings(paths: Iterable[Path]) -> dict[str, Tuning]:
    """Return what records of runs with the settings of files say, by `LABEL@DATASET`.

    Trials are those of the method on the dataset, of files in the same folder too, as they count for the budget. A
    search whose best settings are those that it began with has found none.
    """
    found: dict[str, Tuning] = {}
    for path in paths:
        tuned = read_tuned(path)
        if tuned.label != tuned.trials[0].label:
            trials = len(tuned.trials) + other_trials(path, tuned.search)
            found[f"{tuned.label}@{tuned.search.dataset}"] = Tuning(trials=trials, pairs=tuned.search.pairs)
    return found


def tuning_of(
    tunings: Mapping[str, Tuning], name: str, config: Method.Config, infos: tuple[Kinded, Kinded], dataset: str
) -> Tuning | None:
    """Return how the settings of a run were found, if a search on its dataset has found them.

    Where they are the method's own on the pair, nobody had to search for them.

    Args:
        tunings: of `tunings`.
        name: the canonical label of the run. config: its settings.
        infos: of teacher and student.
    """
    method, variant = split_variant(name)
    for known, tuning in tunings.items() if variant else ():
        label, _, searched = known.rpartition("@")
        id, found = split(label)
        if (id, searched) == (method.id, whole_name(dataset)):
            if resolve_config(method, found, *infos, dataset) == config:
                return tuning
    return None
