"""A search for a method's settings on images held out of the training set; its trials are runs of the store.

Which settings are tried next is a function of the trials so far and of the seed, so that a search goes on where it was
stopped, and takes what it had begun from the store.
"""

import hashlib
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any, get_type_hints

from cakdbench import labels
from cakdbench.data.holdout import holdout_name
from cakdbench.engine.session import Session
from cakdbench.grid.plan import Cell
from cakdbench.grid.suites import PairSpec
from cakdbench.grid.tuned import BUDGET, Range, Search, Trial, Tuned, Value, other_trials, read_tuned
from cakdbench.method import Method, Tunable, tunables
from cakdbench.registry import split_variant, variant_values
from cakdbench.store import canonical
from cakdbench.utils.errors import UsageError
from cakdbench.utils.rng import derive

AT_RANDOM = 6
"""So many trials, the default settings among them, before the search goes by their results."""
DIGITS = 3
"""Of a number that is tried."""


@dataclass(frozen=True)
class Subject:
    """What is tuned: a method, with a variant perhaps, on pairs of one dataset.

    Attributes:
        variant: what of the method stays as it is; None for all its defaults.
        space: what is searched, by setting.
        defaults: of those settings.
    """

    method: str
    variant: str | None
    specs: tuple[PairSpec, ...]
    space: dict[str, Tunable]
    defaults: dict[str, Value]

    def label(self, settings: dict[str, Value]) -> str:
        """Return the name of the method with some settings."""
        named, fixed = labels.split(self.variant or "")[0] or None, labels.changes(self.variant or "")
        changed = {name: value for name, value in settings.items() if value != self.defaults[name]}
        return labels.label(self.method, labels.with_changes(named, fixed | changed))


def tune(session: Session, name: str, trials: int, lanes: int, path: Path) -> Tuned:
    """Make trials up to a number, and write them into a file after every few.

    Args:
        name: METHOD, or METHOD:VARIANT for what stays as it is.
        trials: those that the file has already count.
        lanes: so many are chosen at a time, and trained side by side on each pair.

    Raises:
        UsageError: there is nothing to tune, no optuna, the budget is exceeded, or the file holds another search.
        CakdError: data or a teacher are missing or wrong, or the user stopped; what is finished is kept.
    """
    optuna = _optuna()
    subject = _subject(session, name)
    search = _search(session, subject, name, lanes)
    done = list(_earlier(path, search))
    _require_budget(search, trials, path)
    while len(done) < trials:
        start = len(done) // lanes * lanes
        asked = ask(optuna, subject, done[:start], lanes, search.seed)[len(done) - start : trials - start]
        done += _try(session, subject, asked)
        tuned = Tuned.of(search, tuple(done))
        if session.accelerator.is_main_process:
            tuned.write(path)
        session.runtime.events.say(_told(tuned, len(asked)))
    return Tuned.of(search, tuple(done))


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError:
        raise UsageError('tuning needs the package optuna: pip install "cakdbench[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _subject(session: Session, name: str) -> Subject:
    method, variant = split_variant(name)
    fixed = variant_values(method, variant)
    space = {key: value for key, value in tunables(method.Config).items() if key not in fixed}
    if not space:
        beside = f" beside what it fixes ({', '.join(fixed)})" if fixed else ""
        told = "a setting is with field(..., metadata=tunable(LOW, HIGH))"
        raise UsageError(f"{name} declares nothing tunable{beside}: {told}")
    held = [replace(spec, pair=replace(spec.pair, dataset=holdout_name(spec.pair.dataset))) for spec in session.specs]
    if len({spec.pair.dataset for spec in held}) > 1:
        raise UsageError("the pairs are of several datasets: tune on each by itself")
    return Subject(method.id, variant, tuple(held), space, _defaults(name, space, _cells(session, name, held)))


def _defaults(name: str, space: dict[str, Tunable], cells: Sequence[Cell]) -> dict[str, Value]:
    """Return the settings that the search begins with.

    Raises:
        UsageError: they differ between the pairs, or one is outside of what is searched.
    """
    first, *others = (_values(cell.config, space) for cell in cells)
    if any(values != first for values in others):
        raise UsageError(f"{name} has other defaults on some of these pairs: tune on those by themselves")
    for key, value in first.items():
        if not _holds(space[key], value):
            raise UsageError(f"{name}: its {key}, {value}, is outside of what is searched: fix it as METHOD[{key}=...]")
    return first


def _values(config: Method.Config, names: Iterable[str]) -> dict[str, Value]:
    """Return settings; those of a field of floats are floats, also where its default is written without decimals."""
    hints = get_type_hints(type(config))
    return {name: float(getattr(config, name)) if hints[name] is float else getattr(config, name) for name in names}


def _holds(space: Tunable, value: Value) -> bool:
    return value in space.choices if space.choices else space.low <= float(value) <= space.high


def _cells(session: Session, label: str, specs: Sequence[PairSpec]) -> list[Cell]:
    """Return the cells of a label, one a pair.

    Raises:
        UsageError: the method refuses a pair, or runs would have to come first.
    """
    plan = session.plan_of([label], specs, always=())
    for refusal in plan.refusals:
        raise UsageError(f"{refusal.label} cannot run on {refusal.pair}: {refusal.reason}")
    for link in (name for cell in plan.cells for name, _ in cell.links):
        raise UsageError(f"{link} comes first: run it, and name it by its key, run:KEY")
    return plan.cells


def _search(session: Session, subject: Subject, name: str, lanes: int) -> Search:
    first = subject.specs[0].pair
    data = session.harness.dataset(first.dataset)
    assert data.whole is not None, "a holdout knows what it was taken of"
    cells = _cells(session, name, subject.specs)
    identities = [canonical(cell.identity(data, None)) for cell in cells]
    return Search(
        method=labels.label(subject.method, subject.variant),
        pairs=tuple(str(spec.pair) for spec in session.specs),
        recipes=tuple(cell.recipe.name for cell in cells),
        changed=_changed(session),
        dataset=data.whole.name,
        train=len(data.train),
        held=len(data.test),
        precision=session.options.precision,
        seed=session.options.seeds[0],
        lanes=lanes,
        identity=hashlib.sha256("\0".join(identities).encode()).hexdigest()[:16],
        space={key: Range.of(declared) for key, declared in subject.space.items()},
    )


def _changed(session: Session) -> tuple[str, ...]:
    settings = session.options.settings
    tables = {"recipe": settings.recipe, "teacher": settings.teacher}
    return tuple(
        f"{owner}.{key}={labels.value_text(value)}" for owner in tables for key, value in tables[owner].items()
    )


def _earlier(path: Path, search: Search) -> tuple[Trial, ...]:
    """Return the trials that a file has; none if it is not there.

    Raises:
        UsageError: they are of another search.
    """
    if not path.exists():
        return ()
    tuned = read_tuned(path)
    own, others = search.model_dump(), tuned.search.model_dump()
    if different := [key for key in own if own[key] != others[key]]:
        names = ", ".join(different)
        raise UsageError(f"{path} holds another search ({names} differ): name another file with --to, or remove it")
    return tuned.trials


def _require_budget(search: Search, trials: int, path: Path) -> None:
    """Raise UsageError where more settings would be tried of the method on the dataset than the rules allow."""
    spent = other_trials(path, search)
    if trials + spent > BUDGET:
        beside = f" beside the {spent} that stand in {path.parent}" if spent else ""
        told = f"leaderboards/RULES.md allows {BUDGET} per method and dataset"
        raise UsageError(f"--trials {trials}{beside}: {told}, give at most {max(BUDGET - spent, 0)}")


def ask(
    optuna: ModuleType, subject: Subject, earlier: Sequence[Trial], count: int, seed: int
) -> list[dict[str, Value]]:
    """Return the next `count` settings: the default ones first, then some at random, then what TPE chooses."""
    ranges = {name: _distribution(optuna, space, subject.defaults[name]) for name, space in subject.space.items()}
    own_seed = derive(seed, "tune", len(earlier)) % 2**32
    with warnings.catch_warnings(action="ignore"):  # optuna 4 calls it experimental to choose several at a time
        sampler = optuna.samplers.TPESampler(n_startup_trials=AT_RANDOM, constant_liar=True, seed=own_seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in earlier:  # a run that failed is as bad as can be
        known = {"params": dict(trial.settings), "distributions": ranges, "value": trial.top1 or 0.0}
        study.add_trial(optuna.trial.create_trial(**known))
    if not earlier:
        study.enqueue_trial(subject.defaults)
    asked = [study.ask(ranges).params for _ in range(count)]
    return [{name: _rounded(values[name], subject, name) for name in subject.space} for values in asked]


def _distribution(optuna: ModuleType, space: Tunable, default: Value) -> Any:
    if space.choices:
        return optuna.distributions.CategoricalDistribution(space.choices)
    if isinstance(default, int):
        return optuna.distributions.IntDistribution(math.ceil(space.low), math.floor(space.high), log=space.log)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)


def _rounded(value: Value, subject: Subject, name: str) -> Value:
    """Return a number with few digits inside of its range, but a default as it is."""
    space = subject.space[name]
    if not isinstance(value, float) or value == subject.defaults[name]:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def _try(session: Session, subject: Subject, asked: Sequence[dict[str, Value]]) -> list[Trial]:
    """Train with settings, those of a pair side by side, and return what came of them."""
    named = {subject.label(settings): settings for settings in asked}
    cells = {label: _cells(session, label, subject.specs) for label in named}
    outcome = session.harness.run([cell for own in cells.values() for cell in own])
    return [_trial(session, settings, cells[subject.label(settings)], outcome.failed) for settings in asked]


def _trial(session: Session, settings: dict[str, Value], cells: list[Cell], failed: dict[str, str]) -> Trial:
    tasks, label = session.harness.tasks(cells), cells[0].label
    keys = tuple(task.key for task in tasks)
    for key in keys:
        if key in failed:
            return Trial(label=label, failed=failed[key], runs=keys, settings=settings)
    top1 = round(fmean(task.folder.record().result.top1 for task in tasks), 4)
    return Trial(label=label, top1=top1, runs=keys, settings=settings)


def _told(tuned: Tuned, new: int) -> str:
    trials = tuned.trials[-new:]
    results = ", ".join(f"{t.label} {'failed' if t.top1 is None else format(t.top1, '.2f')}" for t in trials)
    return f"{len(tuned.trials)} trials: {results}; best: {tuned.label}"
