"""Finished runs by METHOD:PAIR: which runs are of a pair whose teachers may be runs in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from cakdbench.data.holdout import whole_name
from cakdbench.engine.run_teachers import find_run
from cakdbench.grid.pairs import RUN, Pair, canonical_run, named_run, pair_kinds, teacher_model
from cakdbench.grid.teachers import TeacherEntry, teaching_runs
from cakdbench.records import Record, TeacherIdentity
from cakdbench.registry import config_identity, resolve_config, split_variant
from cakdbench.store import RunFolder, Store, key_stem, one_key
from cakdbench.utils.errors import StoreError, UsageError

Fits = Callable[[Record, TeacherIdentity, str], bool]
"""Returns True if a teacher of a run is the one of a name; the text is the key of the run that it is the student of."""
Entries = Mapping[tuple[str, str], TeacherEntry]


def finished_run(store: Store, name: str, seed: int, precision: str, entries: Entries = {}) -> RunFolder:
    """Return the finished run that `run:KEY` names, or `run:METHOD:PAIR`; of the latter that of a seed and precision.

    Args:
        entries: of teachers, by model and dataset: one may be the student of a run by another name.

    Raises:
        UsageError: there is none, or there are several; says what there is.
    """
    if not named_run(name):
        return find_run(store, name)
    name = canonical_run(name)
    runs = [(record, (record.identity.seed, record.identity.precision)) for record in names_of(store, entries)[name]]
    found = [record for record, place in runs if place == (seed, precision)]
    if len(found) != 1:
        told = f"{len(found) or 'no'} finished runs of seed {seed} in {precision}"
        keys = listed(found or [record for record, _ in runs])
        raise UsageError(f"{name} means {told} in {store.root}" + (f": give one key of {keys}" if keys else ""))
    return RunFolder(store.root / found[0].key)


def listed(records: Iterable[Record]) -> str:
    """Return the first of several runs as users name them by their keys."""
    return ", ".join(f"{RUN}{record.key} ({record.identity.precision})" for record in list(records)[:4])


def names_of(store: Store, entries: Entries = {}) -> RunNames:
    """Return the finished runs of a store by their names."""
    keys = [run.key for run in store.runs() if run.is_done]
    return RunNames(keys, lambda key: RunFolder(store.root / key).record(), entries)


class RunNames:
    """Finished runs by `run:METHOD:PAIR`, whatever their seed, precision and recipe.

    A run is of a pair if its method has those settings and each of its teachers has the weights that its name stands
    for: those of a run of the same seed and precision, of the run of a key, or of the model's entry.

    Args:
        keys: of the runs.
        read: returns the record of one; StoreError if it cannot be read.
        entries: see `finished_run`.
    """

    def __init__(self, keys: Iterable[str], read: Callable[[str], Record], entries: Entries = {}):
        self.keys = list(keys)
        self.read = read
        self.entries = entries

    def __getitem__(self, name: str) -> list[Record]:
        """Return the records of a name's runs, in the order of their keys.

        Raises:
            UsageError: it is no such name, or has the key of a run that is not there.
        """
        run = named_run(name)
        if run is None:
            raise UsageError(f"{name} names no run of a pair: write {RUN}METHOD:PAIR")
        return list(self._of_pair(*run))

    def taught(self, pair: Pair) -> Callable[[Record], bool]:
        """Return what tells whether a run learnt from the teachers of a pair, in its order."""
        fits = [self._fits(name, pair.dataset) for name in pair.teachers]
        return lambda run: _is_taught(run, fits)

    def _of_pair(self, label: str, pair: Pair) -> Iterator[Record]:
        method, variant = split_variant(label)
        models = tuple(map(self._model, pair.teachers))
        config = resolve_config(method, variant, *pair_kinds(replace(pair, models=models)), pair.dataset)
        own = method.id, config_identity(config), pair.student, pair.dataset
        taught = self.taught(pair)
        for run in self._records(key_stem(method.id, pair.student, pair.dataset)):
            made, student, dataset = run.identity.method, run.identity.student, run.identity.dataset.name
            if (made.id, made.config, student, dataset) == own and (not method.needs or taught(run)):
                yield run

    def _records(self, stem: str) -> Iterator[Record]:
        """Yield the records of the runs whose keys begin with a stem; `fsck` tells of those that cannot be read."""
        for key in self.keys:
            if key.startswith(stem):
                with contextlib.suppress(StoreError):
                    yield self.read(key)

    def _run(self, name: str) -> Record:
        return self.read(one_key(name.removeprefix(RUN), self.keys, "finished run"))

    def _model(self, teacher: str) -> str:
        is_key = teacher.startswith(RUN) and not named_run(teacher)
        return self._run(teacher).identity.student if is_key else teacher_model(teacher)

    def _fits(self, name: str, dataset: str) -> Fits:
        """Return what tells whether a run was taught by the teacher of a name."""
        if named_run(name):
            made = {(run.identity.seed, run.identity.precision, run.weights_sha256) for run in self[name]}
            return lambda run, taught, _: (run.identity.seed, run.identity.precision, taught.sha256) in made
        entry = self.entries.get((name, whole_name(dataset)))
        if key := name if name.startswith(RUN) else entry and entry.run:
            weights = self._run(key).weights_sha256
            return lambda run, taught, _: taught.sha256 == weights
        return lambda run, taught, key: taught.model == name and not key


def _is_taught(run: Record, fits: list[Fits]) -> bool:
    teacher = run.identity.teacher
    taught = (teacher.several or (teacher,)) if teacher else ()
    if len(fits) != len(taught) or run.teacher is None:
        return False
    found = zip(fits, taught, teaching_runs(run.teacher.source, len(taught)))
    return all(fit(run, each, key) for fit, each, key in found)
