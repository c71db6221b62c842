"""Results of a run with changed settings, which stand on no board: a table of their own for each recipe."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cakdbench.cli.tables import Listing
from cakdbench.grid.suites import PairSpec
from cakdbench.recipes import Recipe, load_recipe, recipe_names
from cakdbench.utils.diff import changes

if TYPE_CHECKING:
    import pandas as pd

    from cakdbench.engine.session import Session


def changed_numbers(recipe: Recipe, specs: Iterable[PairSpec]) -> list[str]:
    """Return what a recipe has otherwise than that of its name in the plan, as `epochs = 1 (standard 8)`."""
    named = [load_recipe(name) for name in dict.fromkeys(spec.recipe for spec in specs)]
    standard = next((each for each in named if each.name == recipe.name), recipe)
    differences = changes(recipe.numbers(), standard.numbers(), "recipe")
    return [change.removeprefix("recipe.") for change in differences]


def changed_listings(session: "Session") -> Iterator[Listing]:
    """Yield the results of a plan that its boards set aside: a table a recipe, with the scratch runs of the same.

    A cell is the mean over seeds of top-1 in percent, with standard deviation and gain over scratch.
    """
    from cakdbench.api import load_results

    cells = filter(None, map(session.harness.ground, session.plan.cells))
    recipes = {task.key: task.cell.recipe for task in session.harness.tasks(list(cells)) if task.folder.is_done}
    runs = load_results(session.store.root, data_dir=session.options.computing.data_dir)
    runs = runs.assign(recipe_of=runs["key"].map(recipes))[runs["key"].isin(recipes)]
    for recipe in dict.fromkeys(recipes.values()):
        own = runs[runs["recipe_of"] == recipe]
        if recipe.name not in recipe_names():  # results are judged by cakdbench's own recipes
            own = own.assign(excluded="; ".join(changed_numbers(recipe, session.specs)) or None)
        if own["excluded"].notna().any():
            yield _listing(own, recipe)


def _listing(runs: "pd.DataFrame", recipe: Recipe) -> Listing:
    """Return the table of the runs by one recipe; what keeps them from a board is its title."""
    from cakdbench.results.cells import summarize

    reasons = "; ".join(dict.fromkeys(reason for text in runs["excluded"].dropna() for reason in text.split("; ")))
    cells = summarize(runs.drop(columns="recipe_of").assign(excluded=None))
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells.to_dict("records"):
        method = cell["method"] + (f" (tuned, {cell['trials']} trials)" if cell["trials"] else "")
        rows.setdefault(method, {"method": method})[cell["pair"]] = _cell_text(cell)
    return Listing(list(rows.values()), title=f"Apart from the boards: {recipe.name} with other settings ({reasons})")


def _cell_text(cell: dict[str, Any]) -> str:
    """Return `81.25 ± 0.50 (+1.20, n 3)`; a single run has no deviation, scratch no gain."""
    parts = [f"{cell['mean']:.2f}"]
    if cell["sd"] == cell["sd"]:
        parts.append(f"± {cell['sd']:.2f}")
    gain = f"{cell['gain']:+.2f}, " if cell["gain"] == cell["gain"] and cell["method"] != "scratch" else ""
    return " ".join([*parts, f"({gain}n {cell['n']})"])
