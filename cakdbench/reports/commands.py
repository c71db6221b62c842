"""Missing runs, and the command lines that make them."""

from collections.abc import Iterable
from dataclasses import dataclass

from cakdbench.recipes import recipe_names
from cakdbench.reports.eligibility import Column


@dataclass(frozen=True)
class Missing:
    """A run the board has a place for and no record of."""

    label: str
    column: Column
    seed: int
    precision: str


def commands(missing: Iterable[Missing]) -> list[str]:
    """Return the command lines that make the missing runs; pairs that lack the same runs share one."""
    labels: dict[tuple[str, Column], dict[int, list[str]]] = {}
    for run in missing:
        labels.setdefault((run.precision, run.column), {}).setdefault(run.seed, []).append(run.label)
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for (precision, column), by_seed in labels.items():
        for methods in dict.fromkeys(map(tuple, by_seed.values())):
            seeds = sorted(seed for seed, others in by_seed.items() if tuple(others) == methods)
            key = precision, column.recipe, ",".join(methods), ",".join(map(str, seeds))
            grouped.setdefault(key, []).append(column.pair)
    return [_command(*key, pairs) for key, pairs in grouped.items()]


def _command(precision: str, recipe: str, methods: str, seeds: str, pairs: list[str]) -> str:
    recipe = recipe if recipe in recipe_names() else f"{recipe}.toml"
    parts = [f"--methods {methods}", f"--pairs '{','.join(pairs)}'", f"--recipe {recipe}", f"--seeds {seeds}"]
    if precision != "fp32":
        parts.append(f"--precision {precision}")
    return " ".join(["cakdbench run", *parts])
