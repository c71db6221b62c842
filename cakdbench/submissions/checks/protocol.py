"""Check that the recipe is one that exists, unchanged, and that the seed is one."""

from collections.abc import Iterator

from cakdbench.recipes import load_recipe, recipe_names
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.identity import ANEW
from cakdbench.submissions.findings import Problem
from cakdbench.utils.diff import changes


def check_recipe(case: Case) -> Iterator[Problem]:
    """Check that the recipe's name is known; numbers that are not its own are named."""
    name = case.record.recipe_name
    if name not in recipe_names():
        yield Problem(f"the recipe {name[:100]} is unknown", "add it under pairs/recipes first")
        return
    for change in changes(case.record.recipe, load_recipe(name).numbers(), "recipe"):
        yield Problem(f"changed settings: {change[:200]}", "boards set it aside", note=True)


def check_seed(case: Case) -> Iterator[Problem]:
    if not 0 <= case.identity.seed < 2**31:
        yield Problem(f"the seed {case.identity.seed} is out of range", ANEW)
