"""Runs that a board has a place for, and the commands that make them."""

from collections.abc import Iterable
from dataclasses import dataclass

from cakdbench.recipes import recipe_names
from cakdbench.reports.standard import Column


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
        seeds: dict[tuple[str, ...], list[int]] = {}
        for seed, methods in by_seed.items():
            seeds.setdefault(tuple(methods), []).append(seed)
        for names, lacking in seeds.items():
            key = precision, column.recipe, ",".join(names), ",".join(map(str, sorted(lacking)))
            grouped.setdefault(key, []).append(column.pair)
    lines = []
    for (precision, recipe, methods_text, numbers), pairs in grouped.items():
        file = recipe if recipe in recipe_names() else f"{recipe}.toml"
        line = f"cakdbench run --methods {methods_text} --pairs '{','.join(pairs)}' --recipe {file} --seeds {numbers}"
        lines.append(line if precision == "fp32" else f"{line} --precision {precision}")
    return lines
