"""Which record counts in which cell of a board. Pure: the same board whatever the order of the records.

A record is standard in a column if student, dataset and teacher are the column's (a method without teacher serves
every pair of its student), and the rules find no difference in the recipe's numbers and the method's settings.
Datasets and precisions are kept apart, each in a block of its own. Within a column all records share one record
schema, dataset fingerprint and teacher file, within a cell one method source: those of most records, of the latest
at a tie. A standard record that does not count for this, and one with changed settings, is set aside with the
reason; one trained under a recipe of another name is counted by that name.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cakdbench.records import Record
from cakdbench.reports.board import (
    BASELINES,
    SCRATCH,
    TEACHER,
    Aside,
    Block,
    BlockColumn,
    Board,
    Column,
    Missing,
    Row,
    Rules,
    Score,
)
from cakdbench.results.ranking import Answers, standings
from cakdbench.utils.errors import UsageError

Verdicts = dict[str, dict[int, list[str]]]
"""Key of a record to the columns it concerns, by position, each with what keeps it from counting there."""


def build_board(
    name: str,
    title: str,
    columns: Sequence[Column],
    records: Iterable[Record],
    rules: Rules,
    answers: Answers = lambda record: None,
    statuses: Mapping[str, str] = MappingProxyType({}),
) -> Board:
    """Sort records into cells.

    Args:
        columns: the pairs of the board, in the order they are shown.
        records: of any pairs, in any order; a key that occurs twice counts once, the latest record of it.
        answers: which test images a run classified right, where that is known.
        statuses: of the submitted records, by key.
    """
    records = [_relabelled(record, columns, rules) for record in _once_each(records)]
    verdicts = {
        record.key: {
            place: _objections(record, column, rules) for place, column in enumerate(columns) if column.concerns(record)
        }
        for record in records
    }
    blocks, unmeasured = [], []
    for dataset in dict.fromkeys(column.dataset for column in columns):
        places = [place for place, column in enumerate(columns) if column.dataset == dataset]
        filled = {
            precision: [_filled(records, precision, place, columns[place], rules, verdicts) for place in places]
            for precision in _precisions(records, verdicts, places)
        }
        found = [_block(precision, _shown(filled[precision]), rules, answers) for precision in filled]
        blocks += found
        unmeasured += _unmeasured(found, filled[found[0].precision], rules)
    return Board(name, title, tuple(blocks), tuple(unmeasured), *_leftovers(records, columns, verdicts), statuses)


def _once_each(records: Iterable[Record]) -> list[Record]:
    """Records by key; of several with one key the latest."""
    ordered = sorted(records, key=lambda r: (r.key, r.conditions.finished, r.model_dump_json()))
    return list({record.key: record for record in ordered}.values())


def _relabelled(record: Record, columns: Sequence[Column], rules: Rules) -> Record:
    """Return the record under the present name of its settings: variants may have been named since it was made."""
    column = next((column for column in columns if column.concerns(record)), None)
    if column is None:
        return record
    try:
        return record.model_copy(update={"label": rules.label(record, column)})
    except UsageError:
        return record


def _objections(record: Record, column: Column, rules: Rules) -> list[str]:
    result = record.result
    if not all(map(math.isfinite, (result.top1, result.top5, result.optimistic_top1, result.ema_top1 or 0))):
        return ["a result is not a finite number"]
    return rules.differences(record, column)


def _precisions(records: list[Record], verdicts: Verdicts, places: list[int]) -> list[str]:
    """The precisions of standard records of some columns, fp32 first; fp32 if there are none."""
    counting = (record for record in records if any(verdicts[record.key].get(place) == [] for place in places))
    found = {record.identity.precision for record in counting}
    return sorted(found, key=lambda name: (name != "fp32", name)) or ["fp32"]


def _filled(
    records: list[Record], precision: str, place: int, column: Column, rules: Rules, verdicts: Verdicts
) -> BlockColumn:
    return BlockColumn(column, tuple(_counting(records, precision, place, verdicts)), rules.printed(column))


def _counting(records: list[Record], precision: str, place: int, verdicts: Verdicts) -> list[Record]:
    """The standard records of one column and precision that may stand together; the others get their reason."""
    traits: list[tuple[str, Callable[[Record], Hashable]]] = [
        ("engine version", lambda r: r.identity.engine_version),
        ("dataset fingerprint", lambda r: r.identity.dataset.fingerprint),
        ("teacher file", lambda r: r.identity.teacher and r.identity.teacher.sha256),
    ]
    standard = (record for record in records if verdicts[record.key].get(place) == [])
    records = [record for record in standard if record.identity.precision == precision]
    odd: dict[str, str] = {}
    for name, trait in traits:
        records = _agreeing(records, name, trait, odd)
    counted = []
    for label in sorted({_label(record) for record in records}):
        group = [record for record in records if _label(record) == label]
        counted += _agreeing(group, "method source", lambda r: r.identity.method.source, odd)
    for key, reason in odd.items():
        verdicts[key][place] = [reason]
    return sorted(counted, key=lambda r: (_label(r), r.identity.seed))


def _agreeing(
    records: list[Record], name: str, trait: Callable[[Record], Hashable], odd: dict[str, str]
) -> list[Record]:
    """The records with the value most of them have, the latest at a tie; `odd` gets the others' reasons."""
    counts = Counter(value for record in records if (value := trait(record)) is not None)
    if len(counts) < 2:
        return records

    def weight(value: Hashable) -> tuple[int, str, str]:
        return counts[value], max(r.conditions.finished for r in records if trait(r) == value), str(value)

    chosen = max(counts, key=weight)
    kept = [record for record in records if trait(record) in (None, chosen)]
    for record in records:
        if trait(record) not in (None, chosen):
            odd[record.key] = f"{name} {str(trait(record))[:8]} (in the table: {str(chosen)[:8]})"
    return kept


def _leftovers(
    records: list[Record], columns: Sequence[Column], verdicts: Verdicts
) -> tuple[tuple[Aside, ...], dict[str, int]]:
    """Records that concern the board and count nowhere: with their reasons, or by recipe if it is another.

    The training of a teacher is a scratch run too; it is no run of the board.
    """
    aside, others = [], Counter()
    teachers = {record.identity.teacher.sha256 for record in records if record.identity.teacher}
    for record in records:
        found = verdicts[record.key]
        if not found or [] in found.values() or record.weights_sha256 in teachers:
            continue
        same_recipe = [place for place in found if columns[place].recipe == record.recipe_name]
        if same_recipe:
            place = min(same_recipe, key=lambda each: len(found[each]))
            column = columns[place]
            pair = column.pair if record.identity.teacher else f"{column.student}@{column.dataset}"
            aside.append(Aside(record, pair, tuple(found[place])))
        else:
            others[record.recipe_name] += 1
    aside.sort(
        key=lambda a: (a.record.identity.student, a.pair, _label(a.record), a.record.identity.seed, a.record.key)
    )
    return tuple(aside), dict(sorted(others.items()))


def _shown(columns: list[BlockColumn]) -> list[BlockColumn]:
    """The columns worth showing: those with a taught student or printed numbers, else those with any run, else all."""
    return [c for c in columns if c.taught or c.printed] or [c for c in columns if c.records] or columns


def _unmeasured(blocks: list[Block], columns: list[BlockColumn], rules: Rules) -> tuple[Missing, ...]:
    """What the first block's methods and seeds lack on the columns that no block shows."""
    shown = {column.column for block in blocks for column in block.columns}
    first = blocks[0]
    return tuple(
        Missing(row.label, column.column, seed, first.precision)
        for column in columns
        if column.column not in shown
        for row in first.rows
        if row.installed
        for seed in first.seeds
        if not any((_label(r), r.identity.seed) == (row.label, seed) for r in column.records)
        and rules.refusal(row.label, column.column) is None
    )


def _block(precision: str, columns: list[BlockColumn], rules: Rules, answers: Answers) -> Block:
    measured = {_label(record) for column in columns for record in column.records}
    printed = {label for column in columns for label in column.printed} - {TEACHER}
    rows = sorted((_row(label, columns, rules) for label in measured | printed | set(BASELINES)), key=_order)
    runs = {row.label: [score.records for score in row.scores] for row in rows if row.label in measured}
    dataset = columns[0].column.dataset
    return Block(dataset, precision, tuple(columns), tuple(rows), standings(runs, answers))


def _order(row: Row) -> tuple[Any, ...]:
    if row.label in BASELINES:
        return (0, BASELINES.index(row.label))
    printed = sum(bool(score.printed) for score in row.scores)
    return (1, -len(row.gains), -(row.average_gain or 0), -printed, row.label)


def _row(label: str, columns: list[BlockColumn], rules: Rules) -> Row:
    scores = []
    for column in columns:
        own, scratch = (
            tuple(record for record in column.records if _label(record) == wanted) for wanted in (label, SCRATCH)
        )
        refusal = None if own else rules.refusal(label, column.column)
        scores.append(Score(own, () if label == SCRATCH else scratch, refusal, column.printed.get(label, ())))
    return Row(label, rules.title(label), tuple(scores), rules.installed(label))


def _label(record: Record) -> str:
    return record.label
