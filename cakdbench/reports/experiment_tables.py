"""The tables of an experiment as its paper has them: rows and columns in its order, each number in its cell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import pandas as pd

from cakdbench.grid.experiments import Entry, Experiment, Place, Spot
from cakdbench.published.compare import recomputes
from cakdbench.published.ledger import Average, costs, sources
from cakdbench.reports.board import BREAK, Cell, table
from cakdbench.reports.experiment_results import Results
from cakdbench.reports.printed import ODD_AVERAGE, OTHER_SETTINGS
from cakdbench.reports.text import MISSING, REFUSED, points

METRICS = {
    **{"top1": "top-1", "top5": "top-5", "teacher_top1": "teacher", "assistant_top1": "assistant"},
    **{"student_top1": "student", "memory_gb": "memory GB", "predicted_gb": "predicted GB"},
}
PREDICTED = {"memory_gb": ("predicted_gb",)}
"""What stands beside a metric, of ours alone."""
PANELS = ["", "left", "right"]
Row = list[Cell | str]


def models(pair: str) -> tuple[str, str]:
    """Return teacher and student of a pair."""
    teacher, _, student = pair.partition("@")[0].partition(">")
    return teacher, student


def arrow(pair: str) -> str:
    """Return `swin_t → resnet18, cifar100`."""
    return "{} → {}, {}".format(*models(pair), pair.partition("@")[2])


def label_cell(entry: Entry) -> Cell:
    """Return what an entry is here."""
    return Cell(code=entry.label) if entry.label else Cell(MISSING)


@dataclass(frozen=True)
class Grid:
    """A layout: what tells the rows of a table apart, and its columns.

    Attributes:
        down, across: fields of `Place`; the table is in the order of the first, then of the next.
        heads, names: of what names a row; the names are those of the row that a place is in.
    """

    down: tuple[str, ...]
    across: tuple[str, ...]
    heads: tuple[str, ...]
    names: Callable[[Experiment, Place], Row]


def _setting(experiment: Experiment, place: Place) -> Row:
    entry = experiment.entries[place.entry]
    return [Cell(entry.name), label_cell(entry)]


def _pair(experiment: Experiment, place: Place) -> Row:
    teacher, student = models(place.pair)
    return [Cell(teacher), student]


def _line(experiment: Experiment, place: Place) -> Row:
    return [Cell(place.panel), *models(place.pair), experiment.entries[place.entry].name]


def _own_pair(experiment: Experiment, place: Place) -> Row:
    return [*_setting(experiment, place), arrow(place.pair)]


GRIDS = {
    "pairs": Grid(("pair",), ("entry", "metric"), ("teacher", "student"), _pair),
    "settings": Grid(("entry",), ("pair", "metric"), ("setting", "here"), _setting),
    "rows": Grid(("entry", "pair"), ("metric",), ("setting", "here", "pair"), _own_pair),
    "lines": Grid(("panel", "pair", "entry"), ("metric",), ("panel", "teacher", "student", "method"), _line),
}


def paper_tables(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the paper's table, block by block with its heading."""
    cells = _cells(results)
    for mode in dict.fromkeys(place.mode for place in cells):
        yield mode, _grid(results, {place: cell for place, cell in cells.items() if place.mode == mode})


def _cells(results: Results) -> dict[Place, Cell]:
    cells = {}
    for spot in results.experiment.spots:
        cells[spot.place] = _cell(spot, results)
        if peak := results.predicted_memory(spot):
            cells[spot.place._replace(metric="predicted_gb")] = Cell(points(peak))
    return cells


def _cell(spot: Spot, results: Results) -> Cell:
    measured = results.ours[spot.place]
    mark = sources()[results.experiment.file.source].mark + OTHER_SETTINGS * results.contradicted(spot)
    text = "" if measured.n else REFUSED if results.refusal(spot) else MISSING
    return Cell(text, measured=measured.mean, sd=measured.sd, seeds=measured.n, printed=((spot.value, mark),))


def _grid(results: Results, cells: Mapping[Place, Cell]) -> pd.DataFrame:
    experiment = results.experiment
    grid = GRIDS[experiment.file.layout]
    rows, columns = (_lines(fields, cells, experiment) for fields in (grid.down, grid.across))
    found = {(_key(grid.down, place), _key(grid.across, place)): cell for place, cell in cells.items()}
    body = [
        [*grid.names(experiment, place), *(found.get((row, column), "") for column in columns)]
        for row, place in rows.items()
    ]
    if printed := experiment.average_gains():
        gains = (_average_gain(results, place.entry, printed) for place in columns.values())
        body.append([Cell("average gain"), "", *gains])
    return table([*grid.heads, *(_head(experiment, grid.across, place) for place in columns.values())], body)


def _lines(fields: Sequence[str], cells: Mapping[Place, Cell], experiment: Experiment) -> dict[Sequence[str], Place]:
    """Return the rows or the columns in the table's order, each with one of its places."""
    metrics = [name for metric in experiment.file.metrics for name in (metric, *PREDICTED.get(metric, ()))]
    order = {"panel": PANELS, "pair": experiment.pairs, "entry": [*experiment.entries], "metric": metrics}

    def rank(place: Place) -> list[int]:
        return [order[field].index(getattr(place, field)) for field in fields]

    return {_key(fields, place): place for place in sorted(cells, key=rank)}


def _key(fields: Sequence[str], place: Place) -> Sequence[str]:
    return tuple(getattr(place, field) for field in fields)


def _head(experiment: Experiment, fields: Sequence[str], place: Place) -> str:
    """Return the head of a column; of a table of one metric without it."""
    names = {"entry": experiment.entries[place.entry].name, "pair": arrow(place.pair), "metric": METRICS[place.metric]}
    told = [names[field] for field in fields]
    return BREAK.join(told if len(experiment.file.metrics) > 1 else told[:1])


def _average_gain(results: Results, id: str, printed: Mapping[str, Average]) -> Cell | str:
    """Return the average gain over scratch of a method, where all pairs are measured, beside the printed one."""
    if id not in printed:
        return ""
    pairs, average = results.experiment.pairs, printed[id]
    gains = [gain for pair in pairs if (gain := results.ours[Place(pair, id, "top1")].gain) is not None]
    text = points(fmean(gains), signed=True) if len(gains) == len(pairs) else MISSING
    mark = sources()[average.source].mark + ("" if recomputes(average) else ODD_AVERAGE)
    return Cell(text, printed=((f"{float(average.value):+.2f}", mark),))


def model_costs(experiment: Experiment) -> pd.DataFrame | None:
    """Return the costs that the table prints of its models, teachers first; None if it prints none."""
    file, mark = experiment.file, sources()[experiment.file.source].mark
    printed: dict[tuple[str, str], Cell] = {
        (row.role, row.model): Cell(printed=((row.flops_g, mark),))
        for row in costs()
        if (row.source, row.table, row.kind) == (file.source, file.table, "model")
    }
    named: list[tuple[Literal["teacher", "student"], str]]
    named = [("teacher", models(pair)[0]) for pair in experiment.pairs]
    named += [("student", models(pair)[1]) for pair in experiment.pairs]
    rows: list[Row] = [
        [Cell(role), model, printed[role, model]] for role, model in dict.fromkeys(named) if (role, model) in printed
    ]
    return table(["", "model", "GFLOPs"], rows) if rows else None
