"""Which run counts in which cell of a board, and why the others do not. Pure: the order of the records changes nothing.

A run is standard in a column if student, dataset and teacher are the column's, the numbers of the recipe are those
installed, and method and engine are in their present version; other settings of a method are a row of their own.
Everything else (device, processes, compilation) may vary. Within a column and a precision all runs share one dataset
fingerprint and teacher file, within a cell one method source: those of most accepted runs, then of most that are no
mere claims, then of most, of the first in order at a tie. Claims count only in a cell that has nothing else. Of
several runs of one seed the first in order counts, and of submitted ones those of `SEEDS` alone, if the cell has any.
The order: re-run, re-scored, not submitted, claimed; of those the one that was finished first, of runs that were not
submitted the one that was finished last. A standard run that does not count for this, and one with changed settings,
is excluded with the reason; one trained under a recipe of another name is counted by that name.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cakdbench.records import Record
from cakdbench.reports.links import name_links
from cakdbench.reports.standard import Column, Standard
from cakdbench.results.ranking import SEEDS
from cakdbench.submissions.status import CLAIMED, RESCORED


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
            with contextlib.suppress(Exception):  # `_objections` says what
                return record.model_copy(update={"label": rules.label(record, column)})
            break
    return record


def _objections(record: Record, column: Column, rules: Standard) -> list[str]:
    result = record.result
    if not all(map(math.isfinite, (result.top1, result.top5, result.optimistic_top1, result.ema_top1 or 0))):
        return ["a result is not a finite number"]
    try:
        return rules.differences(record, column)
    except Exception as error:  # a stranger's numbers: one run must not stop a board
        return [f"settings of {record.label} cannot be checked: {type(error).__name__}: {str(error)[:200]}"]


TRAITS: Mapping[str, Callable[[Record], Hashable]] = {
    "dataset fingerprint": lambda r: r.identity.dataset.fingerprint,
    "teacher file": lambda r: r.identity.teacher and r.identity.teacher.sha256,
}
"""What all runs of a column have in common."""


def in_order(records: Iterable[Record], statuses: Mapping[str, str]) -> list[Record]:
    """Return runs in the order in which they count where they exclude each other."""
    ordered = sorted(records, key=lambda record: (record.conditions.finished, record.key))
    own = [record for record in reversed(ordered) if record.key not in statuses]
    submitted = [record for record in ordered if record.key in statuses]
    submitted.sort(key=lambda record: STATUSES.index(statuses[record.key]))
    claims = [record for record in submitted if statuses[record.key] == CLAIMED]
    return submitted[: len(submitted) - len(claims)] + own + claims


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
    """Return the runs of a cell that count: the first of each seed; of submitted ones those of the rules' seeds.

    Claims stand aside first, if there are others: none of these may give way to a claim's seed.
    """
    settled = [record for record in records if statuses.get(record.key) != CLAIMED]
    table = "accepted runs" if any(statuses.get(record.key) in ACCEPTED for record in settled) else "runs of one's own"
    if settled:
        claims = (record.key for record in records if statuses.get(record.key) == CLAIMED)
        odd |= dict.fromkeys(claims, f"claimed (in the table: {table})")
    first: dict[int, Record] = {}
    for record in settled or records:
        other = first.setdefault(record.identity.seed, record)
        if other is not record:
            odd[record.key] = f"a second run of seed {record.identity.seed} (in the table: {other.key})"
    ruled = not first.keys().isdisjoint(SEEDS)
    for seed, record in list(first.items()):
        if ruled and seed not in SEEDS and record.key in statuses:
            odd[record.key] = f"seed {seed} (in the table: {', '.join(map(str, SEEDS))})"
            del first[seed]
    return list(first.values())


def keep_majority(
    records: list[Record],
    name: str,
    trait: Callable[[Record], Hashable],
    odd: dict[str, str],
    statuses: Mapping[str, str] = MappingProxyType({}),
) -> list[Record]:
    """Return the runs with the value of most accepted ones, else of most that are no claims, else of most.

    At a tie it is the value of the first. `odd` gets the others' reasons. Runs without a value (of the teacher file:
    those without teacher) stay.

    Args:
        records: in order, see `in_order`.
    """
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(trait(record), []).append(record)
    none = groups.pop(None, [])
    if not groups:
        return none

    def weight(value: Hashable) -> tuple[int, int, int, int]:
        given = [statuses.get(record.key) for record in groups[value]]
        accepted, settled = sum(status in ACCEPTED for status in given), len(given) - given.count(CLAIMED)
        return accepted, settled, len(given), -records.index(groups[value][0])

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
