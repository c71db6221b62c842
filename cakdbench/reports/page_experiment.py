"""The page of an experiment, `leaderboards/papers/<name>.md`: a table of a paper, and what was measured for it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import fmean
from typing import Literal

import pandas as pd

from cakdbench.costs.papers import paper_costs
from cakdbench.grid.experiments import Entry, Experiment, Spot
from cakdbench.grid.plan import Settings
from cakdbench.published.ledger import costs, sources
from cakdbench.reports.board import BREAK, Board, Cell, Section, table
from cakdbench.reports.experiment_results import Measured, Results, accuracy, is_teacher, verdict_text
from cakdbench.reports.page_costs import papers_table
from cakdbench.reports.printed import OTHER_SETTINGS, protocols_of
from cakdbench.reports.sections import excluded_sections, other_sections
from cakdbench.reports.text import MISSING, REFUSED, bullets, plain, points, prose
from cakdbench.results.load import Evidence
from cakdbench.results.ranking import SEEDS

FOLDER = "papers"
"""Of the pages, beside the boards."""
METRICS = {
    **{"top1": "top-1", "top5": "top-5", "teacher_top1": "teacher", "assistant_top1": "assistant"},
    **{"student_top1": "student", "memory_gb": "memory GB", "predicted_gb": "predicted GB"},
}
PREDICTED = {"memory_gb": ("predicted_gb",)}
"""What stands beside a metric, of ours alone."""
Place = tuple[str, str, str, str, str]
"""Where a number stands in a table: pair, entry, metric, mode, panel."""
Ours = Mapping[Place, Measured]


def experiment_board(experiment: Experiment, evidence: Evidence, settings: Settings | None = None) -> Board:
    """Return the page.

    Args:
        settings: what `--set` has changed of the recipes and of the teachers'; runs that have it count here.
    """
    title = experiment.file.title + (", on small models and data" if experiment.tiny else "")
    if experiment.file.layout == "costs":
        return Board(page_name(experiment), title, tuple(_cost_sections(experiment)))
    return Board(page_name(experiment), title, tuple(_sections(experiment, Results(experiment, evidence, settings))))


def page_name(experiment: Experiment) -> str:
    """Return the name of an experiment's page, without its ending."""
    return f"{FOLDER}/{experiment.name}{'-tiny' if experiment.tiny else ''}"


def _cost_sections(experiment: Experiment) -> Iterator[Section]:
    yield Section(label="About", notes=_texts(experiment)["costs"])
    yield Section("Costs", frame=papers_table(paper_costs()), brief=True, interactive=True)


def _sections(experiment: Experiment, results: Results) -> Iterator[Section]:
    texts, ours = _texts(experiment), {_place(spot): results.of(spot) for spot in experiment.spots}
    done = any(measured.n for measured in ours.values())
    yield Section(label="About", notes=(*texts["tiny" if experiment.tiny else "about"], *_remarks(results)))
    for heading, frame in _tables(experiment, ours, results):
        yield Section(heading or "The table", frame=frame, brief=done, interactive=done)
    if (models := _model_costs(experiment)) is not None:
        yield Section("What the paper prints of its models", notes=texts["models"], frame=models)
    notes = (texts["verdict"] if results.is_judged else ()) + (texts["delta"] if experiment.file.full else ())
    yield Section("Number by number", notes=notes, frame=_numbers(experiment, ours, results))
    yield from excluded_sections(results.excluded)
    yield from other_sections(results.other_recipes)
    if reasons := list(_reasons(experiment, results)):
        yield Section("What does not run", notes=bullets(map(plain, reasons)), brief=done)
    if notes := tuple(_notes(experiment)):
        listed = (*texts["uncertain"], *bullets(map(plain, notes)))
        yield Section("What is uncertain of the printed numbers", notes=listed)
    if results.is_judged:
        printed = ((results.column(spot), accuracy(spot)) for spot in experiment.spots)
        lines = protocols_of((column, number) for column, number in printed if column and number)
        yield Section("How the printed numbers were made", notes=lines)


def _texts(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    file = experiment.file
    facts = {"name": experiment.name, "source": f"`{file.source}`", "table": file.table, "full": file.full}
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
        pairs.setdefault(f"{spec.pair.teacher} → {spec.pair.student}", []).append(" → ".join(_models(pair)))
    return (f"{small} for {', '.join(dict.fromkeys(own))}" for small, own in pairs.items())


# The paper's table


def _tables(experiment: Experiment, ours: Ours, results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the parts of the paper's table with their headings."""
    cells = {_place(spot): _cell(spot, ours[_place(spot)], results) for spot in experiment.spots}
    for spot in experiment.spots:
        if peak := results.predicted_memory(spot):
            cells[spot.pair, spot.entry.id, "predicted_gb", *spot.block] = Cell(points(peak))
    if experiment.file.layout == "pairs":
        yield "", _pair_table(experiment, cells, ours)
    elif experiment.file.layout == "settings":
        yield "", _setting_table(experiment, cells)
    elif experiment.file.layout == "rows":
        yield "", _row_table(experiment, cells)
    else:
        for mode in dict.fromkeys(spot.block[0] for spot in experiment.spots):
            yield mode, _line_table(experiment, cells, mode)


def _place(spot: Spot) -> Place:
    return spot.pair, spot.entry.id, spot.metric, *spot.block


def _cell(spot: Spot, measured: Measured, results: Results) -> Cell:
    mark = sources()[results.experiment.file.source].mark + OTHER_SETTINGS * results.contradicted(spot)
    text = "" if measured.n else REFUSED if results.refusal(spot) else MISSING
    return Cell(text, measured=measured.mean, sd=measured.sd, seeds=measured.n, printed=((spot.value, mark),))


def _pair_table(experiment: Experiment, cells: Mapping[Place, Cell], ours: Ours) -> pd.DataFrame:
    """Return a row a pair, a column a method and metric, and a last row of average gains if the paper has one."""
    used = {(id, metric) for _, id, metric, *_ in cells}
    columns = [(entry, metric) for entry in experiment.entries.values() for metric in experiment.file.metrics]
    columns = [(entry, metric) for entry, metric in columns if (entry.id, metric) in used]
    heads = ["teacher", "student", *(_head(experiment, entry.name, metric) for entry, metric in columns)]
    rows: list[list[Cell | str]] = []
    for pair in experiment.pairs:
        teacher, student = _models(pair)
        numbers = [cells.get((pair, entry.id, metric, "", ""), "") for entry, metric in columns]
        rows.append([Cell(teacher), student, *numbers])
    if printed := experiment.average_gains():
        rows.append([Cell("average gain"), "", *(_average(entry, printed, experiment, ours) for entry, _ in columns)])
    return table(heads, rows)


def _average(entry: Entry, printed: Mapping[str, str], experiment: Experiment, ours: Ours) -> Cell | str:
    """Return the average gain over scratch of a method, where all pairs are measured, beside the printed one."""
    if entry.id not in printed:
        return ""
    own, base = ([ours[pair, id, "top1", "", ""].mean for pair in experiment.pairs] for id in (entry.id, "scratch"))
    gains = [mean - start for mean, start in zip(own, base) if mean is not None and start is not None]
    text = MISSING if len(gains) < len(own) else points(fmean(gains), signed=True)
    return Cell(text, printed=((f"{float(printed[entry.id]):+.2f}", sources()[experiment.file.source].mark),))


def _setting_table(experiment: Experiment, cells: Mapping[Place, Cell]) -> pd.DataFrame:
    """Return a row a setting with our label, a column a pair and metric."""
    used = {(pair, metric) for pair, _, metric, *_ in cells}
    metrics = [name for metric in experiment.file.metrics for name in (metric, *PREDICTED.get(metric, ()))]
    columns = [(pair, metric) for pair in experiment.pairs for metric in metrics if (pair, metric) in used]
    rows: list[list[Cell | str]] = []
    for entry in experiment.entries.values():
        numbers = [cells.get((pair, entry.id, metric, "", ""), "") for pair, metric in columns]
        rows.append([Cell(entry.name), _label(entry), *numbers])
    return table(["setting", "here", *(_head(experiment, _arrow(pair), metric) for pair, metric in columns)], rows)


def _row_table(experiment: Experiment, cells: Mapping[Place, Cell]) -> pd.DataFrame:
    """Return a row a setting, with our label and its own pair."""
    rows: list[list[Cell | str]] = []
    for (pair, id, *_), cell in cells.items():
        entry = experiment.entries[id]
        rows.append([Cell(entry.name), _label(entry), _arrow(pair), cell])
    return table(["setting", "here", "pair", METRICS[experiment.file.metrics[0]]], rows)


def _line_table(experiment: Experiment, cells: Mapping[Place, Cell], mode: str) -> pd.DataFrame:
    """Return a line a pair and method of one block, the left panel first."""
    metrics, rows = experiment.file.metrics, []
    lines = dict.fromkeys((panel, pair, id) for pair, id, _, block, panel in cells if block == mode)
    for panel, pair, id in sorted(lines, key=lambda line: line[0]):
        numbers = [cells.get((pair, id, metric, mode, panel), "") for metric in metrics]
        rows.append([Cell(panel), *_models(pair), experiment.entries[id].name, *numbers])
    return table(["panel", "teacher", "student", "method", *(METRICS[metric] for metric in metrics)], rows)


def _model_costs(experiment: Experiment) -> pd.DataFrame | None:
    """Return the costs that the table prints of its models, teachers first; None if it prints none."""
    file, mark = experiment.file, sources()[experiment.file.source].mark
    printed: dict[tuple[str, str], Cell] = {
        (row.role, row.model): Cell(MISSING, printed=((row.flops_g, mark),))
        for row in costs()
        if (row.source, row.table, row.kind) == (file.source, file.table, "model")
    }
    models: list[tuple[Literal["", "teacher", "student"], str]]
    models = [("teacher", _models(pair)[0]) for pair in experiment.pairs]
    models += [("student", _models(pair)[1]) for pair in experiment.pairs]
    rows: list[list[Cell | str]] = [
        [Cell(role), model, printed[role, model]] for role, model in dict.fromkeys(models) if (role, model) in printed
    ]
    return table(["", "model", "GFLOPs"], rows) if rows else None


def _head(experiment: Experiment, name: str, metric: str) -> str:
    return name if len(experiment.file.metrics) == 1 else f"{name}{BREAK}{METRICS[metric]}"


def _label(entry: Entry) -> Cell:
    return Cell(code=entry.label) if entry.label else Cell(MISSING)


# Number by number


def _numbers(experiment: Experiment, ours: Ours, results: Results) -> pd.DataFrame:
    """Return a row a printed number: ours, deltas to the full method, the difference and a verdict."""
    full = {(s.pair, s.metric, s.block): s for s in experiment.spots if s.entry.label == experiment.file.full}
    rows = []
    for spot in experiment.spots:
        measured, whole = ours[_place(spot)], full.get((spot.pair, spot.metric, spot.block))
        row: dict[str, object] = {
            "pair": _arrow(spot.pair),
            "block": " ".join(filter(None, spot.block)),
            "row": spot.entry.name,
            "here": _label(spot.entry),
            "metric": METRICS[spot.metric],
            "printed": spot.value,
            "measured": Cell("" if measured.n else MISSING, measured=measured.mean, sd=measured.sd),
        }
        row |= _deltas(spot, whole, ours)
        rows.append(row | (_judged(spot, measured, results) if results.is_judged else {}))
    return _without_empty(pd.DataFrame(rows, dtype=object))


def _deltas(spot: Spot, whole: Spot | None, ours: Ours) -> dict[str, str]:
    """Return the differences to the full method on the same pair, as printed and as measured."""
    printed = measured = MISSING
    if whole and spot.entry.id != whole.entry.id and spot.metric != "memory_gb" and not is_teacher(spot):
        own, base = ours[_place(spot)].mean, ours[_place(whole)].mean
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


def _reasons(experiment: Experiment, results: Results) -> Iterable[str]:
    """Yield why rows or cells do not run, each with what it concerns."""
    concerned: dict[str, dict[str, None]] = {}
    for spot in experiment.spots:
        if reason := results.refusal(spot):
            place = f"{spot.entry.name} on {_arrow(spot.pair)}"
            name = spot.entry.name if spot.entry.why else _arrow(spot.pair) if spot.why else place
            concerned.setdefault(reason, {})[name] = None
    return (f"{'; '.join(names)}: {reason}" for reason, names in concerned.items())


def _notes(experiment: Experiment) -> Iterator[str]:
    """Yield the ledger's notes, each with the rows that it is about; without them, one of most rows."""
    printed = dict.fromkeys((spot.entry.name, spot.pair) for spot in experiment.spots)
    for note in dict.fromkeys(filter(None, (spot.note for spot in experiment.spots))):
        places = {(spot.entry.name, spot.pair) for spot in experiment.spots if spot.note == note}
        names = "; ".join(_row_names(places, printed))
        yield note if len(places) > len(printed) / 2 else f"{names}: {note}"


def _row_names(places: Collection[tuple[str, str]], printed: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the rows of some numbers; with their pairs where they are not of all that the row is printed for."""
    pairs: dict[str, list[str]] = {}
    for row, pair in printed:
        pairs.setdefault(row, []).append(pair)
    for row, own in pairs.items():
        named = [_arrow(pair) for pair in own if (row, pair) in places]
        if named:
            yield row if len(named) == len(own) else f"{row} on {' and '.join(named)}"


def _models(pair: str) -> tuple[str, str]:
    teacher, _, student = pair.partition("@")[0].partition(">")
    return teacher, student


def _arrow(pair: str) -> str:
    return "{} → {}, {}".format(*_models(pair), pair.partition("@")[2])
