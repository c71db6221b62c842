"""Finished runs by name, as teachers, `run:KEY` in the place of a model, and as what a student starts from."""

from __future__ import annotations

from dataclasses import replace

from cakdbench.data.holdout import whole_name
from cakdbench.grid.pairs import RUN, Pair, canonical_run, named_run, teacher_model
from cakdbench.grid.teachers import TeacherEntry
from cakdbench.recipes import Recipe
from cakdbench.store import RunFolder, Store, one_key
from cakdbench.utils.errors import UsageError


def find_run(store: Store, name: str) -> RunFolder:
    """Return the finished run that `run:KEY` names, by its key or the beginning of it.

    Raises:
        UsageError: there is none, or there are several.
    """
    key = name.removeprefix(RUN)
    run = RunFolder(store.root / key)
    if run.is_done:
        return run
    if named_run(name):
        raise UsageError(f"{name} is not trained yet: a run of a pair that names it makes it first")
    return RunFolder(store.root / one_key(key, [run.key for run in store.runs() if run.is_done], "finished run"))


def finished_run(store: Store, name: str, seed: int, precision: str) -> RunFolder:
    """Return the finished run that `run:KEY` names, or `run:METHOD:PAIR`; of the latter that of a seed and precision.

    Raises:
        UsageError: there is none, or there are several; says what there is.
    """
    if not named_run(name):
        return find_run(store, name)
    name = canonical_run(name)
    runs = [run for run in store.runs() if run.is_done and f"{RUN}{run.label()}:{run.identity().pair}" == name]
    found = [run for run in runs if (run.identity().seed, run.identity().precision) == (seed, precision)]
    if len(found) != 1:
        keys = ", ".join(f"{RUN}{run.key} ({run.identity().precision})" for run in (found or runs)[:4])
        told = f"{len(found) or 'no'} finished runs of seed {seed} in {precision}"
        raise UsageError(f"{name} means {told} in {store.root}" + (f": give one key of {keys}" if keys else ""))
    return found[0]


def run_entry(store: Store, name: str, dataset: str) -> TeacherEntry:
    """Return a teacher's entry for the student of a finished run, on its data or on images held out of them.

    Raises:
        UsageError: there is no such run, or it learnt other data.
    """
    run = find_run(store, name)
    identity = run.identity()
    own = identity.dataset.name
    if own not in (dataset, whole_name(dataset)):
        raise UsageError(f"the run {run.key} learnt {own}: it cannot teach {dataset}")
    size = run.record().recipe["image_size"]
    return TeacherEntry(model=identity.student, dataset=own, run=run.key, image_size=size)


def known_pair(store: Store, pair: Pair) -> Pair:
    """Return a pair with the whole keys of the finished runs that teach it, and with their models; see `run_entry`."""
    keys = [name for name in pair.teachers if name.startswith(RUN) and not named_run(name)]
    if not keys:
        return pair
    entries = {name: run_entry(store, name, pair.dataset) for name in keys}
    teacher = "+".join(f"{RUN}{entries[name].run}" if name in entries else name for name in pair.teachers)
    models = (entries[name].model if name in entries else teacher_model(name) for name in pair.teachers)
    return replace(pair, teacher=teacher, models=tuple(models))


def is_tested_otherwise(run: RunFolder, recipe: Recipe) -> bool:
    """Return True if a run's test images are not made as those of `recipe`: then its accuracy is none to expect."""
    own, here = run.record().recipe["evaluation"], recipe.evaluation
    return (own["crop_pct"], own["interpolation"]) != (here.crop_pct, here.interpolation)
