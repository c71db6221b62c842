"""The page of an experiment, `leaderboards/papers/<name>.md`: a table of a paper, and what was measured for it."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from cakdbench.costs.papers import paper_costs
from cakdbench.grid.experiments import Experiment, Spot
from cakdbench.grid.plan import Settings
from cakdbench.grid.teachers import load_teachers
from cakdbench.published.conflicts import Conflict, conflicts
from cakdbench.published.ledger import sources
from cakdbench.reports.board import Board, Cell, Section
from cakdbench.reports.experiment_results import Measured, Results, accuracy, is_teacher, verdict_text
from cakdbench.reports.experiment_tables import METRICS, arrow, label_cell, model_costs, models, paper_tables
from cakdbench.reports.page_costs import papers_table
from cakdbench.reports.printed import protocols_of
from cakdbench.reports.sections import excluded_sections, other_sections
from cakdbench.reports.text import MISSING, REFUSED, bullets, plain, points, prose
from cakdbench.results.load import Evidence
from cakdbench.results.ranking import SEEDS

FOLDER = "papers"
"""Of the pages, beside the boards."""


def experiment_board(experiment: Experiment, evidence: Evidence, settings: Settings | None = None) -> Board:
    """Return the page.

    Args:
        settings: what `--set` has changed of the recipes and of the teachers'; runs that have it count here.
    """
    title = experiment.file.title + (", on small models and data" if experiment.tiny else "")
    if experiment.file.layout == "costs":
        return Board(page_name(experiment), title, tuple(_cost_sections(experiment)))
    return Board(page_name(experiment), title, tuple(_sections(Results(experiment, evidence, settings))))


def page_name(experiment: Experiment) -> str:
    """Return the name of an experiment's page, without its ending."""
    return f"{FOLDER}/{experiment.name}{'-tiny' if experiment.tiny else ''}"


def _cost_sections(experiment: Experiment) -> Iterator[Section]:
    yield Section(label="About", notes=_texts(experiment)["costs"])
    yield Section("Costs", frame=papers_table(paper_costs()), brief=True, interactive=True)
    yield from _uncertain(experiment)


def _sections(results: Results) -> Iterator[Section]:
    experiment = results.experiment
    texts, done = _texts(experiment), any(measured.n for measured in results.ours.values())
    yield Section(label="About", notes=(*texts["tiny" if experiment.tiny else "about"], *_remarks(results)))
    for heading, frame in paper_tables(results):
        footer = texts["averages"] if experiment.average_gains() else ()
        yield Section(heading or "The table", frame=frame, footer=footer, brief=done, interactive=done)
    if (printed_costs := model_costs(experiment)) is not None:
        yield Section("What the paper prints of its models", notes=texts["models"], frame=printed_costs)
    notes = (texts["verdict"] if results.is_judged else ()) + (texts["delta"] if experiment.file.full else ())
    yield Section("Number by number", notes=notes, frame=_numbers(results))
    yield from excluded_sections(results.excluded)
    yield from other_sections(results.other_recipes)
    if reasons := list(_reasons(results)):
        yield Section("What does not run", notes=bullets(map(plain, reasons)), brief=done)
    yield from _uncertain(experiment)
    if results.is_judged:
        printed = ((results.column(spot), accuracy(spot)) for spot in experiment.spots)
        lines = protocols_of((column, number) for column, number in printed if column and number)
        yield Section("How the printed numbers were made", notes=lines)
        yield Section("The teachers here", notes=bullets(_teachers(results)))


def _texts(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    file, source = experiment.file, sources()[experiment.file.source]
    paper = f"[{plain(source.citation.rstrip('.'))}]({source.url}), {plain(source.venue)} {source.year}"
    facts = {"name": experiment.name, "table": file.table, "paper": paper, "mark": source.mark, "full": file.full}
    return prose("experiment", **facts, seeds=len(SEEDS), missing=MISSING, refused=REFUSED)


def _remarks(results: Results) -> Iterator[str]:
    """Yield what has to be known of the runs: the file's notes, their precision, changed numbers."""
    if results.experiment.file.notes:
        yield results.experiment.file.notes
    yield from _chains(results.experiment)
    if results.experiment.tiny:
        yield "What stands in for the paper's pairs:"
        yield from bullets(_stand_ins(results.experiment))
    if results.precision != "fp32":
        yield f"Precision: {results.precision}."
    if results.other_precisions:
        counts = ", ".join(f"{name} ({count})" for name, count in results.other_precisions.items())
        yield f"Runs in other precisions, not shown here: {counts}."
    if results.changed:
        numbers = ", ".join(f"{key} = {value}" for key, value in results.changed.items())
        yield f"**With changed numbers**: {plain(numbers)}. There are no verdicts."


def _chains(experiment: Experiment) -> Iterator[str]:
    """Yield what runs for each row that is a chain of trainings."""
    for setting, spec in experiment.chains.items():
        start = f", from the student of `{spec.init}`" if spec.init else ""
        yield f"{plain(setting)}: `{experiment.entries[setting].label}` on `{spec.pair}`{start}."


def _stand_ins(experiment: Experiment) -> Iterator[str]:
    """Yield the small pairs, each with the pairs of the paper that it stands in for."""
    pairs: dict[str, list[str]] = {}
    for pair, spec in experiment.specs.items():
        pairs.setdefault(f"{spec.pair.teacher} → {spec.pair.student}", []).append(" → ".join(models(pair)))
    return (f"{small} for {', '.join(dict.fromkeys(own))}" for small, own in pairs.items())


def _numbers(results: Results) -> pd.DataFrame:
    """Return a row a printed number: ours, deltas to the full method, the difference and a verdict."""
    spots, label = results.experiment.spots, results.experiment.file.full
    full = {(s.pair, s.metric, s.block): s for s in spots if s.entry.label == label}
    rows = []
    for spot in spots:
        measured, whole = results.ours[spot.place], full.get((spot.pair, spot.metric, spot.block))
        row: dict[str, object] = {
            "pair": arrow(spot.pair),
            "block": " ".join(filter(None, spot.block)),
            "row": spot.entry.name,
            "here": Cell(MISSING) if is_teacher(spot) else label_cell(spot.entry),
            "metric": METRICS[spot.metric],
            "printed": spot.value,
            "measured": Cell("" if measured.n else MISSING, measured=measured.mean, sd=measured.sd),
        }
        row |= _deltas(spot, whole, results)
        rows.append(row | (_judged(spot, measured, results) if results.is_judged else {}))
    return _without_empty(pd.DataFrame(rows, dtype=object))


def _deltas(spot: Spot, whole: Spot | None, results: Results) -> dict[str, str]:
    """Return the differences to the full method on the same pair, as printed and as measured."""
    printed = measured = MISSING
    if whole and spot.entry.id != whole.entry.id and spot.metric != "memory_gb" and not is_teacher(spot):
        own, base = results.ours[spot.place].mean, results.ours[whole.place].mean
        printed = spot.delta or points(float(spot.value) - float(whole.value), signed=True)
        measured = MISSING if own is None or base is None else points(own - base, signed=True)
    return {"delta printed": printed, "delta measured": measured}


def _judged(spot: Spot, measured: Measured, results: Results) -> dict[str, str]:
    """Return difference, tolerance and verdict."""
    difference = None if measured.mean is None else measured.mean - float(spot.value)
    compared, tolerance = results.comparison(spot, measured), None
    if difference is None:
        verdict = "does not run" if results.refusal(spot) else "not measured"
    elif compared is None:
        verdict = "the teacher's" if is_teacher(spot) else "no rule"
    else:
        verdict, tolerance = verdict_text(compared), compared.tolerance
    return {"difference": points(difference, signed=True), "tolerance": points(tolerance), "verdict": verdict}


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table without columns that tell nothing."""
    optional = ["block", "delta printed", "delta measured"]
    empty = [name for name in optional if frame[name].isin(["", MISSING]).all()]
    return frame.drop(columns=empty + ["metric"] * (frame["metric"].nunique() == 1))


def _reasons(results: Results) -> Iterable[str]:
    """Yield why rows or cells do not run, each with what it concerns."""
    concerned: dict[str, dict[str, None]] = {}
    for spot in results.experiment.spots:
        if reason := results.refusal(spot):
            place = f"{spot.entry.name} on {arrow(spot.pair)}"
            name = spot.entry.name if spot.entry.why else arrow(spot.pair) if spot.why else place
            concerned.setdefault(reason, {})[name] = None
    return (f"{'; '.join(names)}: {reason}" for reason, names in concerned.items())


def _teachers(results: Results) -> Iterator[str]:
    """Yield which weights each teacher has here, and what is known of them."""
    entries, pairs = load_teachers(), [spec.pair for spec in results.columns]
    for name in dict.fromkeys((model, pair.dataset) for pair in pairs for model in pair.teachers):
        if entry := entries.get(name):
            known = "" if entry.accuracy is None else f", accuracy {points(entry.accuracy)} expected"
            yield f"`{'@'.join(name)}`: {plain(' '.join(f'{entry.source}{known}. {entry.notes}'.split()))}"


# What is uncertain


def _uncertain(experiment: Experiment) -> Iterator[Section]:
    """Yield the ledger's notes, and the conflicts that numbers of the table are part of, if there are any."""
    lines = list(_notes(experiment))
    if concerned := "; ".join(f"{conflict.id} {conflict.subject}" for conflict in _conflicts(experiment)):
        lines.append(f"numbers of this table are part of the conflicts {concerned}")
    if lines:
        notes = (*_texts(experiment)["uncertain"], *bullets(map(plain, lines)))
        yield Section("What is uncertain of the printed numbers", notes=notes)


def _conflicts(experiment: Experiment) -> Iterator[Conflict]:
    place = experiment.file.source, experiment.file.table
    return (c for c in conflicts() if place in {(cell.source, cell.table) for cell in c.cells})


def _notes(experiment: Experiment) -> Iterator[str]:
    """Yield the ledger's notes, each with what it is about; without that, one of most numbers."""
    spots = experiment.spots
    for note in dict.fromkeys(filter(None, (spot.note for spot in spots))):
        most = sum(spot.note == note for spot in spots) > len(spots) / 2
        yield note if most else f"{'; '.join(_concerned(note, spots))}: {note}"


def _concerned(note: str, spots: Sequence[Spot]) -> Iterator[str]:
    """Yield the rows and the pairs all of whose numbers have a note, else rows with their pairs."""
    blocks = {pair: {spot.block for spot in spots if spot.pair == pair} for pair in {spot.pair for spot in spots}}

    def names(spot: Spot) -> tuple[str, str]:
        block = f" ({' '.join(spot.block)})" if len(blocks[spot.pair]) > 1 else ""
        return spot.entry.name, arrow(spot.pair) + block

    others = {name for spot in spots if spot.note != note for name in names(spot)}
    found: dict[str, dict[str, None]] = {}
    for row, pair in (names(spot) for spot in spots if spot.note == note):
        if row in others and pair not in others:
            found[pair] = {}
        else:
            found.setdefault(row, {}).update({pair: None} if row in others else {})
    return (f"{name} on {' and '.join(pairs)}" if pairs else name for name, pairs in found.items())
