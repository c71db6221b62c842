"""Runs that others learnt or started from: records have the hash of their weights, columns of boards their names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cakdbench.grid.pairs import RUN, named_run, split_teachers
from cakdbench.recipes import load_recipe
from cakdbench.records import Record, TeacherFacts, TeacherIdentity
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.reports.standard import Column

WEIGHTS = "sha256:"
"""What a recipe's `init` begins with in an identity, where it is the student of a run."""


def name_links(records: Sequence[Record], columns: Iterable["Column"]) -> list[Record]:
    """Return runs with `run:METHOD:PAIR`, or `run:KEY`, for teachers and starts that a column names in this way.

    A teacher or a start is the one of that name if it is a run among `records` of the same seed and precision, by the
    numbers of its recipe or of a column's. Other runs are returned as they are.
    """
    columns = list(columns)
    wanted = {*_run_names(name for column in columns for name in (*split_teachers(column.teacher), column.init))}
    if not wanted:
        return list(records)
    numbers = [column.numbers for column in columns]
    runs = {record.weights_sha256: record for record in records if _is_standard(record, numbers)}
    return [_named(record, runs, wanted) for record in records]


def _run_names(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of runs among those of teachers, and those that stand inside of them."""
    for name in names:
        if name.startswith(RUN):
            yield name
            run = named_run(name)
            yield from _run_names(run[1].teachers) if run else ()


def _is_standard(record: Record, others: Iterable[Mapping[str, Any]]) -> bool:
    try:
        own = [load_recipe(record.recipe_name).numbers()]
    except UsageError:
        own = []
    return any({**numbers, "init": record.recipe["init"]} == record.recipe for numbers in (*own, *others))


def _named(record: Record, runs: Mapping[str, Record], wanted: set[str]) -> Record:
    identity = record.identity
    teacher, facts, init = identity.teacher, record.teacher, identity.recipe.get("init", "")
    names = _teacher_names(record, runs, wanted)
    if teacher and facts and not wanted.isdisjoint(names):
        origin = TeacherIdentity(model="+".join(names), sha256=_origin(teacher, runs))
        identity = identity.model_copy(update={"teacher": origin})
        begin = _beginning(record, runs)
        facts = facts.model_copy(update={"standard": not begin, "source": begin.source if begin else facts.source})
    if init.startswith(WEIGHTS) and (start := _name(init.removeprefix(WEIGHTS), record, runs, wanted)):
        identity = identity.model_copy(update={"recipe": {**identity.recipe, "init": start}})
    return record.model_copy(update={"identity": identity, "teacher": facts})


def _origin(teacher: TeacherIdentity, runs: Mapping[str, Record]) -> str:
    """Return the weights at the beginning of a chain, which all its seeds share; empty if it begins with a student."""
    seen: set[str] = set()  # records are strangers': a chain may bite its tail
    while True:
        first = (teacher.several or (teacher,))[0]
        run = runs.get(first.sha256)
        if run is None or first.sha256 in seen:
            return first.sha256
        if run.identity.teacher is None:
            return ""
        seen.add(first.sha256)
        teacher = run.identity.teacher


def _beginning(record: Record, runs: Mapping[str, Record], seen: frozenset[str] = frozenset()) -> TeacherFacts | None:
    """Return the teacher that is not the registry's, and no run's student, at the beginning of a chain; None without.

    Of several teachers, which facts say nothing of one by one, those count that are students of runs.
    """
    teacher, facts = record.identity.teacher, record.teacher
    if teacher is None or facts is None or facts.standard:
        return None
    for each in teacher.several or (teacher,):
        run = None if each.sha256 in seen else runs.get(each.sha256)
        if found := _beginning(run, runs, seen | {each.sha256}) if run else None if teacher.several else facts:
            return found
    return None


def _teacher_names(record: Record, runs: Mapping[str, Record], wanted: set[str], depth: int = 0) -> list[str]:
    """Return the names of a run's teachers: those of runs if columns name them so, else of models.

    Args:
        depth: how many runs the chain has had; it is followed no further than the longest wanted name does.
    """
    teacher, facts = record.identity.teacher, record.teacher
    if teacher is None or facts is None:
        return []
    if facts.standard:
        return [teacher.model]
    if depth == max(name.count(RUN) for name in wanted):
        return [each.model for each in teacher.several or (teacher,)]
    return [_name(each.sha256, record, runs, wanted, depth) or each.model for each in teacher.several or (teacher,)]


def _name(weights: str, of: Record, runs: Mapping[str, Record], wanted: set[str], depth: int = 0) -> str | None:
    """Return the wanted name of the run with these weights, for a run that learns or starts from it; None without."""
    run = runs.get(weights)
    if run is None:
        return None
    if (key := f"{RUN}{run.key}") in wanted:
        return key
    if (run.identity.seed, run.identity.precision) != (of.identity.seed, of.identity.precision):
        return None
    teacher = "".join(f"{name}>" for name in ["+".join(_teacher_names(run, runs, wanted, depth + 1))] if name)
    name = f"{RUN}{run.label}:{teacher}{run.identity.student}@{run.identity.dataset.name}"
    return name if name in wanted else None
