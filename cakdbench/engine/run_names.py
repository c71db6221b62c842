"""Finished runs by METHOD:PAIR: which runs of a store are of a pair whose teachers may be runs in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from cakdbench.data.holdout import whole_name
from cakdbench.engine.run_teachers import find_run, known_pair
from cakdbench.grid.pairs import RUN, Pair, canonical_run, named_run, pair_kinds
from cakdbench.grid.teachers import RUN_SOURCE, TeacherEntry
from cakdbench.records import Record, TeacherIdentity
from cakdbench.registry import config_identity, resolve_config, split_variant
from cakdbench.store import KEY, RunFolder, Store, key_stem
from cakdbench.utils.errors import StoreError, UsageError

Fits = Callable[[Record, TeacherIdentity, str], bool]
"""Returns True if a teacher of a run, with its source, is the one of a name."""


def finished_run(
    store: Store, name: str, seed: int, precision: str, entries: Mapping[tuple[str, str], TeacherEntry] = {}
) -> RunFolder:
    """Return the finished run that `run:KEY` names, or `run:METHOD:PAIR`; of the latter that of a seed and precision.

    Args:
        entries: of teachers, by model and dataset: one may be the student of a run by another name.

    Raises:
        UsageError: there is none, or there are several; says what there is.
    """
    if not named_run(name):
        return find_run(store, name)
    name = canonical_run(name)
    runs = [(record, (record.identity.seed, record.identity.precision)) for record in RunNames(store, entries)[name]]
    found = [record for record, place in runs if place == (seed, precision)]
    if len(found) != 1:
        shown = found or [record for record, _ in runs]
        keys = ", ".join(f"{RUN}{record.key} ({record.identity.precision})" for record in shown[:4])
        told = f"{len(found) or 'no'} finished runs of seed {seed} in {precision}"
        raise UsageError(f"{name} means {told} in {store.root}" + (f": give one key of {keys}" if keys else ""))
    return RunFolder(store.root / found[0].key)


class RunNames:
    """The finished runs of a store by `run:METHOD:PAIR`, whatever their seed, precision and recipe.

    A run is of a pair if its method has those settings and each of its teachers has the weights that its name stands
    for: those of a run of the same seed and precision, of the run of a key, or of the model's entry.
    """

    def __init__(self, store: Store, entries: Mapping[tuple[str, str], TeacherEntry] = {}):
        self.store = store
        self.entries = entries
        self._runs = [run for run in store.runs() if run.is_done]

    def __getitem__(self, name: str) -> list[Record]:
        """Return the records of a name's runs, in the order of their keys.

        Raises:
            UsageError: it is no such name, or has the key of a run that is not there.
        """
        run = named_run(name)
        if run is None:
            raise UsageError(f"{name} names no run of a pair: write {RUN}METHOD:PAIR")
        return list(self._of_pair(*run))

    def _of_pair(self, label: str, pair: Pair) -> Iterator[Record]:
        method, variant = split_variant(label)
        config = resolve_config(method, variant, *pair_kinds(known_pair(self.store, pair)), pair.dataset)
        own = method.id, config_identity(config), pair.student, pair.dataset
        fits = [self._fits(name, pair.dataset) for name in pair.teachers] if method.needs else []
        for run in self._records(key_stem(method.id, pair.student, pair.dataset)):
            is_, student, dataset = run.identity.method, run.identity.student, run.identity.dataset.name
            if (is_.id, is_.config, student, dataset) == own and _is_taught(run, fits):
                yield run

    def _records(self, stem: str) -> Iterator[Record]:
        """Yield the records of the runs whose keys begin with a stem; `fsck` tells of those that cannot be read."""
        for run in self._runs:
            if run.key.startswith(stem):
                with contextlib.suppress(StoreError):
                    yield run.record()

    def _fits(self, name: str, dataset: str) -> Fits:
        """Return what tells whether a run was taught by the teacher of a name."""
        if named_run(name):
            made = {(run.identity.seed, run.identity.precision, run.weights_sha256) for run in self[name]}
            return lambda run, taught, _: (run.identity.seed, run.identity.precision, taught.sha256) in made
        entry = self.entries.get((name, whole_name(dataset)))
        if key := name if name.startswith(RUN) else entry and entry.run:
            weights = find_run(self.store, key).record().weights_sha256
            return lambda run, taught, _: taught.sha256 == weights
        return lambda run, taught, source: taught.model == name and not _is_run(source)


def _is_taught(run: Record, fits: list[Fits]) -> bool:
    """Return True if the teachers of a run are those of a pair, in its order."""
    teacher = run.identity.teacher
    taught = (teacher.several or (teacher,)) if teacher else ()
    sources = run.teacher.source.split(" + ") if run.teacher else []
    sources = sources if len(sources) == len(taught) else [""] * len(taught)  # a file's name may hold a plus
    found = zip(fits, taught, sources)
    return len(fits) == len(taught) and all(fit(run, each, source) for fit, each, source in found)


def _is_run(source: str) -> bool:
    return source.startswith(RUN_SOURCE) and bool(KEY.fullmatch(source.removeprefix(RUN_SOURCE)))
