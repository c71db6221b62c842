"""Results of a run with changed settings, which stand on no board: a table of their own for each recipe."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cakdbench.cli.tables import Listing
from cakdbench.grid.pairs import RUN
from cakdbench.grid.suites import PairSpec
from cakdbench.recipes import Recipe, load_recipe, recipe_names
from cakdbench.utils.diff import changes

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from cakdbench.engine.session import Session
    from cakdbench.grid.plan import Cell
    from cakdbench.reports.standard import Column


def changed_numbers(recipe: Recipe, specs: Iterable[PairSpec]) -> list[str]:
    """Return what a recipe has otherwise than that of its name in the plan, as `epochs = 1 (standard 8)`."""
    differences = changes(recipe.numbers(), _standard(recipe, specs).numbers(), "recipe")
    return [change.removeprefix("recipe.") for change in differences]


def _standard(recipe: Recipe, specs: Iterable[PairSpec]) -> Recipe:
    """Return the recipe of this name that a plan's pairs have; else the one that comes with cakdbench, or itself."""
    names = [*dict.fromkeys(spec.recipe for spec in specs), *({recipe.name} & {*recipe_names()})]
    return next((each for each in map(load_recipe, names) if each.name == recipe.name), recipe)


def changed_listings(session: "Session", shown: Collection[str] = ()) -> Iterator[Listing]:
    """Yield the results of a plan that its boards set aside: a table a recipe, with the scratch runs of the same.

    A cell is the mean over seeds of top-1 in percent, with standard deviation and gain over scratch.

    Args:
        shown: keys of the runs that count on a board.
    """
    from cakdbench.results.cells import BASELINE

    cells = _made(session)
    runs = _judged(session, cells)
    for recipe in dict.fromkeys(cell.recipe for cell in cells.values()):
        own = runs[[cells[key].recipe == recipe for key in runs["key"]]]
        aside = own["excluded"].notna() & ~own["key"].isin(shown)
        if aside.any():
            yield _listing(own[aside | (own["method"] == BASELINE)], recipe)


def _made(session: "Session") -> dict[str, "Cell"]:
    """Return the cells of the plan that are done, as it names them, by the keys of their runs."""
    cells: dict[str, Cell] = {}
    for cell in session.plan.cells:
        known = session.harness.ground(cell)
        for task in session.harness.tasks([known] if known else []):
            if task.folder.is_done:
                cells.setdefault(task.key, cell)
    return cells


def _judged(session: "Session", cells: Mapping[str, "Cell"]) -> "pd.DataFrame":
    """Return the runs of cells under the names of the plan, with what keeps each from counting by its own recipe."""
    from cakdbench.reports.eligibility import sort_runs
    from cakdbench.reports.links import name_links
    from cakdbench.reports.standard import Standard
    from cakdbench.results.frame import StoredRecord, runs_frame

    data_dir = session.options.computing.data_dir
    columns = {_column(cell, data_dir): cell for cell in cells.values()}
    shipped = dict.fromkeys(_as_shipped(column, cell, session.specs) for column, cell in columns.items())
    judged = sort_runs(name_links(session.store.records()[0], columns), [*shipped], Standard(data_dir))
    reasons = {run.record.key: "; ".join(run.reasons) for run in judged.excluded}
    found = {record.key: record for group in judged.counting.values() for record in group}
    found |= {run.record.key: run.record for run in judged.excluded}
    return runs_frame((StoredRecord(record) for key, record in found.items() if key in cells), reasons)


def _column(cell: "Cell", data_dir: "Path | None") -> "Column":
    from cakdbench.data.datasets import dataset_facts
    from cakdbench.reports.standard import Column

    pair, recipe = cell.pair, cell.recipe
    init = recipe.init if recipe.init in dict(cell.links) else ""
    images = dataset_facts(pair.dataset, data_dir).n_test
    names = pair.teacher, pair.student, pair.dataset, recipe.name
    return Column(*names, recipe.numbers(), images, init=init, models=pair.models)


def _as_shipped(column: "Column", cell: "Cell", specs: Iterable[PairSpec]) -> "Column":
    """Return the column under the recipe without changes."""
    numbers = _standard(cell.recipe, specs).numbers()
    return replace(column, numbers=numbers | ({"init": column.init} if column.init else {}))


def _listing(runs: "pd.DataFrame", recipe: Recipe) -> Listing:
    """Return the table of the runs by one recipe; what keeps them from a board is its title."""
    from cakdbench.results.cells import summarize

    reasons = "; ".join(dict.fromkeys(reason for text in runs["excluded"].dropna() for reason in text.split("; ")))
    cells = summarize(runs.assign(excluded=None))
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells.to_dict("records"):
        method = cell["method"] + (f" (tuned, {cell['trials']} trials)" if cell["trials"] else "")
        rows.setdefault(method, {"method": method})[cell["pair"]] = _cell_text(cell)
    name = recipe.name + (f" from {recipe.init}" if recipe.init.startswith(RUN) else "")
    return Listing(list(rows.values()), title=f"Apart from the boards: {name} with other settings ({reasons})")


def _cell_text(cell: dict[str, Any]) -> str:
    """Return `81.25 ± 0.50 (+1.20, n 3)`; a single run has no deviation, scratch no gain."""
    parts = [f"{cell['mean']:.2f}"]
    if cell["sd"] == cell["sd"]:
        parts.append(f"± {cell['sd']:.2f}")
    gain = f"{cell['gain']:+.2f}, " if cell["gain"] == cell["gain"] and cell["method"] != "scratch" else ""
    return " ".join([*parts, f"({gain}n {cell['n']})"])
