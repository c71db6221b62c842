"""Finished runs as teachers: `run:KEY` in the place of a model."""

from __future__ import annotations

from dataclasses import replace

from cakdbench.data.holdout import whole_name
from cakdbench.grid.pairs import RUN, Pair, named_run, teacher_model
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
