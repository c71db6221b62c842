"""Experiments: tables of papers by name, what has to run for each, and what their papers print there.

A file of `pairs/experiments/` has a table's rows and columns in the paper's order; the numbers are those of the ledger.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cakdbench.grid.pairs import Pair, named_run, run_name
from cakdbench.grid.suites import PairSpec, check_start, resolve_pairs
from cakdbench.models.zoo import MODELS
from cakdbench.published.ledger import (
    PUBLISHED_DIR,
    Ablation,
    Average,
    Family,
    Line,
    Printed,
    ablations,
    accuracies,
    averages,
    sources,
)
from cakdbench.registry import method_ids
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import PAIRS_DIR, Table, checked, inside, read_toml

EXPERIMENTS_DIR = PAIRS_DIR / "experiments"
TEACHER = "teacher"
"""The entry of a table that is its teacher's own accuracy: nothing runs for it."""
Metric = Literal["top1", "top5", "teacher_top1", "assistant_top1", "student_top1", "memory_gb"]


class _Tiny(Table):
    """What stands in for the models, data and recipes of experiments."""

    dataset: str
    recipe: str
    teachers: dict[str, str]
    students: dict[str, str]


class _Chain(Table):
    """What runs for a row: the last of its trainings, which names those before it as `run:METHOD:PAIR`."""

    pair: str
    init: str | None = None


class _File(Table):
    """An experiment's file.

    Attributes:
        source, table: whose table it is, as in the ledger.
        protocol: the family of settings of its numbers.
        layout: a row a pair, a row a setting, a row a setting with its own pair (`rows`), a line a number (of a table
            in blocks), or a table of costs.
        full: our label of the method that the others are compared with.
        pairs: in the table's order; of a suite's name all of its pairs. A pair of the ledger that is none of ours is
            written in the same way.
        methods, settings: of `accuracy.csv` or of `ablations.csv`, in the table's order.
        metrics: in the table's order.
        chains: what runs for rows whose pair in the ledger is none of ours, by setting.
    """

    title: str
    source: str
    table: str
    protocol: Family
    layout: Literal["pairs", "settings", "rows", "lines", "costs"]
    full: str = ""
    pairs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ("top1",)
    chains: dict[str, _Chain] = {}
    notes: Line = ""


@dataclass(frozen=True)
class Entry:
    """A method or a setting of a table.

    Attributes:
        id: in the ledger. name: as printed. label: ours; empty for the teacher, and where `why` says that we have none.
    """

    id: str
    name: str
    label: str
    why: str = ""


class Place(NamedTuple):
    """Where a number stands in a table; pair and entry as in the ledger, mode and panel in a table of blocks."""

    pair: str
    entry: str
    metric: str
    mode: str = ""
    panel: str = ""


@dataclass(frozen=True)
class Spot:
    """A printed number, and what has to run for ours.

    Attributes:
        pair: as the ledger has it. spec: what runs; None where nothing can.
        block: where in a table of several blocks: its mode and panel.
        printed: the row as one of accuracies, also that of an ablation; None of a number that is no accuracy.
        delta: to the full method, as printed. note: what is uncertain, in the ledger's words.
    """

    entry: Entry
    pair: str
    spec: PairSpec | None
    metric: str
    value: str
    block: tuple[str, str] = ("", "")
    printed: Printed | None = None
    delta: str | None = None
    note: str = ""

    @property
    def place(self) -> Place:
        """Return where it stands."""
        return Place(self.pair, self.entry.id, self.metric, *self.block)

    @property
    def why(self) -> str:
        """Return why nothing can run for it; empty if something can."""
        return self.entry.why or ("" if self.spec else _told_models(self.pair))

    @property
    def runs(self) -> bool:
        """Return True if a run of its own gives our number."""
        return not self.why and self.entry.id != TEACHER


@dataclass(frozen=True)
class Experiment:
    """A table of a paper; `tiny` with small models and data in the place of the paper's."""

    name: str
    file: _File
    tiny: bool = False

    @property
    def pairs(self) -> list[str]:
        """Return the pairs in the table's order, as the ledger has them."""
        texts = (_resolved(text) for text in self.file.pairs)
        return list(dict.fromkeys(pair for pairs in texts for pair in pairs))

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Return the methods or settings in the table's order."""
        return {entry.id: entry for entry in (self._method_entries() if self.file.methods else self._setting_entries())}

    def _method_entries(self) -> Iterator[Entry]:
        names = {row.method: row.printed_as for row in reversed(_rows(accuracies(), self.file))}
        known, told = method_ids(), read_toml(PUBLISHED_DIR / "names.toml")["methods"]
        for id in self.file.methods:
            label = id if id in known else ""
            yield Entry(id, names[id], label, "" if label or id == TEACHER else f"not a method here: {told[id]}")

    def _setting_entries(self) -> Iterator[Entry]:
        rows = {row.setting: row for row in _rows(ablations(), self.file)}
        return (Entry(id, id, rows[id].label, rows[id].why) for id in self.file.settings)

    @cached_property
    def spots(self) -> list[Spot]:
        """Return every number that the table prints, in its order: block by block, and in each pair by pair."""
        printed = self._method_spots() if self.file.methods else self._setting_spots()
        pairs, entries, metrics = self.pairs, [*self.entries], [str(metric) for metric in self.file.metrics]

        def place(spot: Spot) -> tuple[int, ...]:
            pair, entry = pairs.index(spot.pair), entries.index(spot.entry.id)
            first = (entry, pair) if self.file.layout == "rows" else (pair, entry)
            return *first, metrics.index(spot.metric)

        spots = sorted(printed, key=place)
        modes = [*dict.fromkeys(spot.block[0] for spot in spots)]
        return sorted(spots, key=lambda spot: (modes.index(spot.block[0]), spot.block[1]))

    def _method_spots(self) -> Iterator[Spot]:
        for row in _rows(accuracies(), self.file):
            place = self.entries[row.method], _pair(row), self.specs.get(_pair(row))
            yield Spot(*place, row.metric, row.value, (row.mode, row.panel), row, note=row.note)

    def _setting_spots(self) -> Iterator[Spot]:
        rows = _rows(ablations(), self.file)
        deltas = {(r.setting, _pair(r)): r.value for r in rows if r.metric == "delta_full"}
        for row in rows:
            if row.metric in self.file.metrics:
                printed = None if row.metric == "memory_gb" or not row.label else self._as_accuracy(row)
                delta = deltas.get((row.setting, _pair(row))) if row.metric == "top1" else None
                spec = self.chains.get(row.setting) or self.specs.get(_pair(row))
                place = self.entries[row.setting], _pair(row), spec
                yield Spot(*place, row.metric, row.value, printed=printed, delta=delta, note=row.note)

    def _as_accuracy(self, row: Ablation) -> Printed:
        shared = row.model_dump(include={"source", "table", "dataset", "teacher", "student", "value", "note"})
        method = row.label.partition(":")[0].partition("[")[0]
        more = {"protocol": self.file.protocol, "method": method, "printed_as": row.setting, "metric": "top1"}
        return Printed(**shared, **more, mode="", panel="")

    @cached_property
    def specs(self) -> dict[str, PairSpec]:
        """Return what runs for each pair of the table that can."""
        known = {pair: resolve_pairs(pair)[0] for pair in self.pairs if not _told_models(pair)}
        return {pair: tiny_spec(spec) for pair, spec in known.items()} if self.tiny else known

    @cached_property
    def chains(self) -> dict[str, PairSpec]:
        """Return what runs for the rows that are chains of trainings, by setting."""
        chains = {setting: _chain_spec(chain) for setting, chain in self.file.chains.items()}
        return {setting: tiny_spec(spec) for setting, spec in chains.items()} if self.tiny else chains

    def grids(self) -> dict[tuple[str, ...], list[PairSpec]]:
        """Return the pairs that have to run, by the labels of the methods that have to run on them."""
        labels: dict[PairSpec, dict[str, None]] = {}
        for spot in self.spots:
            if spot.runs and spot.spec:
                labels.setdefault(spot.spec, {})[spot.entry.label] = None
        grids: dict[tuple[str, ...], list[PairSpec]] = {}
        for spec, names in labels.items():
            grids.setdefault(tuple(names), []).append(spec)
        return grids

    def average_gains(self) -> dict[str, Average]:
        """Return the average gains that the table prints, by method."""
        return {row.method: row for row in _rows(averages(), self.file)}


def experiment_names() -> list[str]:
    """Return the names of the experiments, paper by paper."""
    return sorted((path.stem for path in EXPERIMENTS_DIR.glob("*.toml")), key=_order)


def _order(name: str) -> tuple[str, int]:
    paper, _, number = name.rpartition("_table")
    return (paper, int(number)) if paper else (name, 0)


@cache
def load_experiment(name: str, tiny: bool = False) -> Experiment:
    """Return an experiment by name.

    Raises:
        UsageError: the name is unknown, or its file is wrong: names the file and the key.
    """
    if name not in experiment_names():
        raise unknown("experiment", name, experiment_names())
    path = EXPERIMENTS_DIR / f"{name}.toml"
    file = checked(_File, _extended(name), path)
    if file.source not in sources():
        raise inside(path, "source", unknown("source", file.source, sources()))
    experiment = Experiment(name, file, tiny and file.layout != "costs")
    if file.layout != "costs":
        _check_lists(experiment, path)
    return experiment


def _check_lists(experiment: Experiment, path: Path) -> None:
    """Raise UsageError unless a file lists exactly the pairs and the methods or settings of its table."""
    file = experiment.file
    kind, listed = ("methods", file.methods) if file.methods else ("settings", file.settings)
    rows = _rows(accuracies() if file.methods else ablations(), file)
    printed = {getattr(row, kind.removesuffix("s")) for row in rows}
    for setting in experiment.chains:
        if setting not in listed:
            raise inside(path, "chains", unknown("setting of the table", setting, listed))
    for key, names, known in ((kind, listed, printed), ("pairs", experiment.pairs, set(map(_pair, rows)))):
        for name in names:
            if name not in known:
                raise inside(path, key, unknown(f"name in {file.source} {file.table}", name, known))
        if more := sorted(known - {*names}):
            raise UsageError(f"{path}: {key}: {file.source} {file.table} has {more[0]!r} too; list it in its place")


def _extended(name: str) -> dict[str, Any]:
    """Return the tables of an experiment's file, over those of the one that it extends."""
    table = read_toml(EXPERIMENTS_DIR / f"{name}.toml")
    base = table.pop("extends", None)
    return (_extended(base) if base else {}) | table


def tiny_spec(spec: PairSpec) -> PairSpec:
    """Return the small pair of the same kinds that stands in for a pair of a paper.

    Raises:
        UsageError: there is none for one of its models.
    """
    return PairSpec(_tiny_pair(spec.pair), _tiny().recipe, spec.init and _tiny_teacher(spec.init))


def _tiny_pair(pair: Pair) -> Pair:
    teacher = "+".join(map(_tiny_teacher, pair.teachers))
    return Pair(teacher, _stand_in(pair.student, _tiny().students), _tiny().dataset)


def _tiny_teacher(name: str) -> str:
    """Return what stands in for a teacher: of a run the same run of the small pair."""
    if run := named_run(name):
        return run_name(run[0], _tiny_pair(run[1]))
    return _stand_in(name, _tiny().teachers)


def _stand_in(model: str, table: dict[str, str]) -> str:
    if model not in table:
        raise UsageError(f"{PAIRS_DIR / 'tiny.toml'}: nothing stands in for {model}: add a line for it")
    return table[model]


def _chain_spec(chain: _Chain) -> PairSpec:
    spec = resolve_pairs(chain.pair)[0]
    return replace(spec, init=check_start(spec.pair, chain.init))


@cache
def _tiny() -> _Tiny:
    path = PAIRS_DIR / "tiny.toml"
    return checked(_Tiny, read_toml(path), path)


def _resolved(text: str) -> list[str]:
    return [str(spec.pair) for spec in resolve_pairs(text)] if ">" not in text else [text]


def _pair(row: Ablation | Printed) -> str:
    return f"{row.teacher}>{row.student}@{row.dataset}"


def _rows(rows: Iterable[Any], file: _File) -> list[Any]:
    return [row for row in rows if (row.source, row.table) == (file.source, file.table)]


def _told_models(pair: str) -> str:
    """Return what the ledger says of a model of the pair that is none here; nothing for a pair of ours."""
    told = read_toml(PUBLISHED_DIR / "names.toml")["models"]
    strange = [model for model in pair.partition("@")[0].split(">") if model.partition(":")[0] not in MODELS]
    return next((told[model] for model in strange), "")
