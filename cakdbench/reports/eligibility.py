"""Which run counts in which cell of a board, and why the others do not. Pure: the order of the records changes nothing.

A run is standard in a column if student, dataset and teacher are the column's, the numbers of the recipe are those
installed, and the method is in its present version; other settings of a method are a row of their own. Everything else
(device, processes, compilation) may vary. Within a column and a precision all runs share one engine version, dataset
fingerprint and teacher file, within a cell one method source: those of most accepted runs, then of most runs, of the
first in order at a tie. Of several runs of one seed the first in order counts, and of submitted ones those of
`SEEDS` alone, if the cell has any, and the accepted ones alone, if it has any. The order: re-run, re-scored, claimed,
not submitted; of those the one that was finished first, of runs that were not submitted the one that was finished
last. A standard run that does not count for this, and one with changed settings, is excluded with the reason; one
trained under a recipe of another name is counted by that name.
"""

import contextlib
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cakdbench.build import refusal
from cakdbench.data.datasets import dataset_facts
from cakdbench.data.shipped import other_data
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import pair_info
from cakdbench.grid.suites import PairSpec, Suite
from cakdbench.method import Method
from cakdbench.published.compare import printed_cells
from cakdbench.published.ledger import Printed
from cakdbench.recipes import identity_of
from cakdbench.records import MethodIdentity, Record
from cakdbench.registry import (
    all_settings,
    canonical_label,
    config_identity,
    get_method,
    method_of_record,
    resolve_config,
    split_variant,
)
from cakdbench.reports.links import name_links
from cakdbench.results.ranking import SEEDS
from cakdbench.source_hash import is_built_in
from cakdbench.submissions.status import CLAIMED, RESCORED
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.models.staged import ModelInfo


@dataclass(frozen=True)
class Column:
    """A pair under its recipe.

    Attributes:
        numbers: everything of the recipe that can change a result.
        protocol: that of the printed numbers shown beside the measured ones, if there are any.
        init: the run that its students start from. models: of its teachers, where a store has to tell; see `Pair`.
    """

    teacher: str
    student: str
    dataset: str
    recipe: str
    numbers: Mapping[str, Any] = field(compare=False)
    test_images: int
    protocol: str | None = None
    init: str = ""
    models: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        return f"{self.teacher}>{self.student}@{self.dataset}"

    def concerns(self, record: Record) -> bool:
        """Return True for a run of this pair, under whatever settings."""
        identity = record.identity
        # A method without teacher knows of none: its run is the same on every pair of its student, and counts there.
        teacher_fits = identity.teacher is None or identity.teacher.model == self.teacher
        return teacher_fits and (identity.student, identity.dataset.name) == (self.student, self.dataset)


def board_columns(suites: Iterable[Suite], board: str, data_dir: Path | None = None) -> list[Column]:
    """Return the columns of one board: every pair of its suites once, in their order."""
    specs = {spec: suite.protocol for suite in suites if suite.board == board for spec in suite.specs}
    return [column_of(spec, protocol, data_dir) for spec, protocol in specs.items()]


def column_of(spec: PairSpec, protocol: str | None = None, data_dir: Path | None = None) -> Column:
    """Return a pair and its recipe as a column; a `timm:` dataset is opened in `data_dir` to count its images."""
    recipe, pair = spec.load_recipe(), spec.pair
    images = dataset_facts(pair.dataset, data_dir).n_test
    names = pair.teacher, pair.student, pair.dataset, recipe.name
    return Column(*names, recipe.numbers(), images, protocol, spec.init or "", pair.models)


class Standard:
    """The rules of the installed methods, recipes and printed numbers; `data_dir` is for `timm:` datasets alone."""

    def __init__(self, data_dir: Path | None = None):
        self.data_dir = data_dir

    def differences(self, record: Record, column: Column) -> list[str]:
        """Return what keeps a run from being a standard run of the column, each number with both values."""
        try:
            self.label(record, column)
            other_code = _other_code(record.identity.method)
        except UsageError as error:
            return [f"settings of {record.label} cannot be checked: {error}"]
        data = record.identity.dataset
        if other_data(data.name, data.fingerprint):
            other_code.append(f"data with the fingerprint {data.fingerprint[:8]}, which are not {data.name}'s")
        if record.teacher and not record.teacher.standard:
            other_code.append(f"a teacher that is not the registry's ({record.teacher.source})")
        return changes(record.recipe, column.numbers, "recipe") + other_code or self._spelling(record, column)

    def _spelling(self, record: Record, column: Column) -> list[str]:
        """Return what a standard run writes in another way than the standard, so that it has another key."""
        identity = record.identity
        pairs = {
            "method": (identity.method.config, self._normal(record, column)[1]),
            "recipe": (identity.recipe, identity_of(column.numbers)),
        }
        odd = [name for name, (own, normal) in pairs.items() if _text(own) != _text(normal)]
        return [f"settings of the {name} are written in another way than in a key" for name in odd]

    def label(self, record: Record, column: Column) -> str:
        """Return the row a run belongs to: the canonical name of its settings on the pair.

        Raises:
            UsageError: the method is not installed, or the settings are none of it.
        """
        return self._normal(record, column)[0]

    def _normal(self, record: Record, column: Column) -> tuple[str, Mapping[str, Any]]:
        method, teacher = record.identity.method, record.identity.teacher
        return _normal(method.id, _text(method.config), column, self.data_dir, teacher.image_size if teacher else None)

    def canonical(self, label: str, column: Column) -> str:
        """Return the row that a label means on the pair: `fofa` for `fofa:n_q_64`, where that is the default.

        Raises:
            UsageError: the method is not installed, or the settings are none of it.
        """
        return _canonical(label, column, self.data_dir)

    def refusal(self, label: str, column: Column) -> str | None:
        """Return the method's own reason for not running on the pair."""
        return _refusal(label, column, self.data_dir)

    def title(self, label: str) -> str:
        """Return the registered title, with the variant if any; the label if the method is not installed."""
        method, variant = _registered(label)
        return label if method is None else f"{method.title}: {variant}" if variant else method.title

    def kind(self, label: str) -> str | None:
        """Return what the registered method transfers; None without such a method or variant."""
        method, _ = _registered(label)
        return None if method is None else method.kind

    def printed(self, column: Column, metric: str = "top1") -> Mapping[str, tuple[Printed, ...]]:
        """Return the accuracies that papers print for the pair, by method."""
        models = (column.teacher, column.student, column.dataset)
        cells = printed_cells(column.protocol, metric) if column.protocol else {}
        return {method: values for (*pair, method), values in cells.items() if tuple(pair) == models}


def _registered(label: str) -> tuple[type[Method] | None, str | None]:
    try:
        return split_variant(label)
    except UsageError:
        return None, None


@functools.cache
def _normal(
    id: str, settings: str, column: Column, data_dir: Path | None, teacher_size: int | None
) -> tuple[str, Mapping[str, Any]]:
    """Return the canonical name of a method's settings, and the settings as a key holds them."""
    method, infos = _method(id), _infos(column, data_dir, teacher_size)
    config = resolve_config(method, None, *infos, column.dataset, all_settings(method, json.loads(settings)))
    return canonical_label(method, config, *infos, column.dataset), config_identity(config)


def _text(value: Any) -> str:
    """Return JSON that tells 1, 1.0 and true apart, and not the order of keys."""
    return json.dumps(value, sort_keys=True)


def _method(id: str) -> type[Method]:
    """Return the method that a record names, by its id alone.

    Raises:
        UsageError: there is none, or the id is another spelling of one.
    """
    return method_of_record(id) or get_method(id)


@functools.cache
def _canonical(label: str, column: Column, data_dir: Path | None) -> str:
    method, variant = split_variant(label)
    if variant is None:
        return method.id
    infos = _infos(column, data_dir)
    config = resolve_config(method, variant, *infos, column.dataset)
    return canonical_label(method, config, *infos, column.dataset)


def _other_code(identity: MethodIdentity) -> list[str]:
    """Return why a run of a built-in method was computed by other code than its present version."""
    method = get_method(identity.id)
    if not is_built_in(method) or identity.version == method.version:
        return []
    if identity.version is None:
        return [f"{identity.id} as code that no version of it has ({(identity.source or '')[:16]})"]
    return [f"version {identity.version} of {identity.id} (standard {method.version})"]


@functools.cache
def _refusal(label: str, column: Column, data_dir: Path | None) -> str | None:
    try:
        method, variant = split_variant(label)
        infos = _infos(column, data_dir)
        return refusal(method, *infos, resolve_config(method, variant, *infos, column.dataset))
    except UsageError as error:
        return str(error)


def _infos(column: Column, data_dir: Path | None, teacher_size: int | None = None) -> "tuple[ModelInfo, ModelInfo]":
    pair = Pair(column.teacher, column.student, column.dataset, column.models)
    return pair_info(pair, column.numbers["image_size"], column.numbers["split"], data_dir, teacher_size=teacher_size)


@dataclass(frozen=True)
class Excluded:
    """A run that concerns a pair of the board and does not count, and why."""

    record: Record
    pair: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Eligibility:
    """The runs of a board, sorted.

    Attributes:
        counting: precision and column to its runs, ordered by method and seed.
        other_recipes: name of a recipe that is no column's, and how many runs of the board's pairs it has.
    """

    counting: Mapping[tuple[str, Column], tuple[Record, ...]]
    excluded: tuple[Excluded, ...]
    other_recipes: Mapping[str, int]


STATUSES = ("re-run", RESCORED, CLAIMED)
ACCEPTED = STATUSES[:2]

Objections = dict[str, dict[Column, list[str]]]
"""Key of a run to the columns it concerns, each with what keeps it from counting there."""


def sort_runs(
    records: Iterable[Record],
    columns: Sequence[Column],
    rules: Standard,
    statuses: Mapping[str, str] = MappingProxyType({}),
) -> Eligibility:
    """Sort runs into the columns of a board.

    Args:
        records: of any pairs, in any order; a key that occurs twice counts once, the latest record of it.
        statuses: of the submitted records by key: claimed, re-scored or re-run.
    """
    ordered = sorted(records, key=lambda r: (r.key, r.conditions.finished, r.model_dump_json()))
    latest = list({record.key: record for record in ordered}.values())
    records = [_relabelled(record, columns, rules) for record in name_links(latest, columns)]
    objections = {
        record.key: {column: _objections(record, column, rules) for column in columns if column.concerns(record)}
        for record in records
    }
    counting: dict[tuple[str, Column], tuple[Record, ...]] = {}
    for column in columns:
        standard = [record for record in records if objections[record.key].get(column) == []]
        for precision in sorted({record.identity.precision for record in standard}):
            group = [record for record in standard if record.identity.precision == precision]
            counting[precision, column], odd = _agreeing(in_order(group, statuses), statuses)
            for key, reason in odd.items():
                objections[key][column] = [reason]
    return Eligibility(counting, *excluded_runs(records, objections))


def _relabelled(record: Record, columns: Sequence[Column], rules: Standard) -> Record:
    """Return the run under the present name of its settings: variants may have been named since it was made."""
    for column in columns:
        if column.concerns(record):
            with contextlib.suppress(UsageError):
                return record.model_copy(update={"label": rules.label(record, column)})
            break
    return record


def _objections(record: Record, column: Column, rules: Standard) -> list[str]:
    result = record.result
    if not all(map(math.isfinite, (result.top1, result.top5, result.optimistic_top1, result.ema_top1 or 0))):
        return ["a result is not a finite number"]
    return rules.differences(record, column)


TRAITS: Mapping[str, Callable[[Record], Hashable]] = {
    "engine version": lambda r: r.identity.engine_version,
    "dataset fingerprint": lambda r: r.identity.dataset.fingerprint,
    "teacher file": lambda r: r.identity.teacher and r.identity.teacher.sha256,
}
"""What all runs of a column have in common."""


def in_order(records: Iterable[Record], statuses: Mapping[str, str]) -> list[Record]:
    """Return runs in the order in which they count where they exclude each other."""
    ordered = sorted(records, key=lambda record: (record.conditions.finished, record.key))
    own = [record for record in reversed(ordered) if record.key not in statuses]
    submitted = [record for record in ordered if record.key in statuses]
    return sorted(submitted, key=lambda record: STATUSES.index(statuses[record.key])) + own


def _agreeing(records: list[Record], statuses: Mapping[str, str]) -> tuple[tuple[Record, ...], dict[str, str]]:
    """Return the runs, of those in order, that may stand together in one column, and by key the others' reasons."""
    odd: dict[str, str] = {}
    for name, trait in TRAITS.items():
        records = keep_majority(records, name, trait, odd, statuses)
    counting = []
    for label in sorted({record.label for record in records}):
        group = [record for record in records if record.label == label]
        group = keep_majority(group, "method source", lambda r: r.identity.method.source, odd, statuses)
        counting += _one_of_each_seed(group, odd, statuses)
    return tuple(sorted(counting, key=lambda r: (r.label, r.identity.seed))), odd


def _one_of_each_seed(records: list[Record], odd: dict[str, str], statuses: Mapping[str, str]) -> list[Record]:
    """Return the runs of a cell that count: the first of each seed; of submitted ones those of the rules' seeds."""
    first: dict[int, Record] = {}
    for record in records:
        other = first.setdefault(record.identity.seed, record)
        if other is not record:
            odd[record.key] = f"a second run of seed {record.identity.seed} (in the table: {other.key})"
    ruled = not first.keys().isdisjoint(SEEDS)
    for seed, record in list(first.items()):
        if ruled and seed not in SEEDS and record.key in statuses:
            odd[record.key] = f"seed {seed} (in the table: {', '.join(map(str, SEEDS))})"
            del first[seed]
    if any(statuses.get(record.key) in ACCEPTED for record in first.values()):
        for seed, record in list(first.items()):
            if statuses.get(record.key) == CLAIMED:
                odd[record.key] = "claimed (in the table: accepted runs)"
                del first[seed]
    return list(first.values())


def keep_majority(
    records: list[Record],
    name: str,
    trait: Callable[[Record], Hashable],
    odd: dict[str, str],
    statuses: Mapping[str, str] = MappingProxyType({}),
) -> list[Record]:
    """Return the runs with the value of most accepted ones, else of most, of the first at a tie.

    `odd` gets the others' reasons. Runs without a value (of the teacher file: those without teacher) stay.

    Args:
        records: in order, see `in_order`.
    """
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(trait(record), []).append(record)
    none = groups.pop(None, [])
    if not groups:
        return none

    def weight(value: Hashable) -> tuple[int, int, int]:
        accepted = sum(statuses.get(record.key) in ACCEPTED for record in groups[value])
        return accepted, len(groups[value]), -records.index(groups[value][0])

    chosen = max(groups, key=weight)
    kept = groups.pop(chosen) + none
    for value, others in groups.items():
        reason = f"{name} {str(value)[:8]} (in the table: {str(chosen)[:8]})"
        odd |= dict.fromkeys((record.key for record in others), reason)
    return kept


def excluded_runs(records: Sequence[Record], objections: Objections) -> tuple[tuple[Excluded, ...], Mapping[str, int]]:
    """Return the runs that concern the board and count nowhere: with their reasons, or by recipe if it is another.

    The training of a teacher is a scratch run too; it is no run of the board.
    """
    excluded: list[Excluded] = []
    others: Counter[str] = Counter()
    teachers = {record.identity.teacher.sha256 for record in records if record.identity.teacher}
    for record in records:
        reasons = objections[record.key]
        if not reasons or [] in reasons.values() or record.weights_sha256 in teachers:
            continue
        same_recipe = [column for column in reasons if column.recipe == record.recipe_name]
        if same_recipe:
            column = min(same_recipe, key=lambda column: len(reasons[column]))
            pair = column.pair if record.identity.teacher else f"{column.student}@{column.dataset}"
            excluded.append(Excluded(record, pair, tuple(reasons[column])))
        else:
            others[record.recipe_name] += 1
    excluded.sort(key=lambda run: (run.record.identity.student, run.pair, run.record.label, run.record.identity.seed))
    return tuple(excluded), dict(sorted(others.items()))
