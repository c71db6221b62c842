"""The files of recipes: those that come with cakdbench, by name, and one's own, by path.

A file may say `extends = "other"`: it then takes over the other's numbers (not its title, source, notes and defaults)
and states only what differs. Where a value may be absent, the word "none" removes it.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cakdbench.recipes.schema import DESCRIPTION, Recipe
from cakdbench.utils.errors import UsageError, unknown
from cakdbench.utils.toml import PAIRS_DIR, checked, inside, read_toml

RECIPES_DIR = PAIRS_DIR / "recipes"


@cache
def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with cakdbench."""
    return tuple(sorted(path.stem for path in RECIPES_DIR.glob("*.toml")))


def load_recipe(name: str) -> Recipe:
    """Return the recipe of a name, or of a path that ends in `.toml`."""
    return recipe_from_file(Path(name)) if name.endswith(".toml") else _built_in(name)


@cache
def _built_in(name: str) -> Recipe:
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return recipe_from_file(RECIPES_DIR / f"{name}.toml")


def recipe_from_file(path: Path) -> Recipe:
    """Return a recipe of one's own; its name is the file's.

    Raises:
        UsageError: names the file and the key that is malformed, unknown, missing or out of range.
    """
    table = _extended(path)
    if "name" in table:
        raise UsageError(f"{path}: name: a recipe is named by its file; remove the key")
    return checked(Recipe, table | {"name": path.stem}, path)


def recipe_files(path: Path) -> list[Path]:
    """Return the file of a recipe and the files of one's own that it extends."""
    base = str(read_toml(path).get("extends", ""))
    return [path, *recipe_files(path.parent / base)] if base.endswith(".toml") else [path]


def _extended(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the file's table, merged over the one it extends."""
    table = read_toml(path)
    kind, _, file = str(table.get("init", "")).partition(":")
    if kind == "file":
        table["init"] = f"file:{path.parent / Path(file).expanduser()}"
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise UsageError(f"{path}: extends: must be the name or the path of a recipe")
    children = (*children, path.resolve())
    parent = _file_of(base, path)
    if not parent.is_file():
        raise UsageError(f"{path}: extends: no file at {parent}")
    if parent.resolve() in children:
        raise UsageError(f"{path}: extends: {base!r} extends this file in turn")
    inherited = {key: value for key, value in _extended(parent, children).items() if key not in DESCRIPTION}
    return _merged(inherited, table)


def _file_of(base: str, path: Path) -> Path:
    if base.endswith(".toml"):
        return path.parent / base
    if base not in recipe_names():
        raise inside(path, "extends", unknown("recipe", base, recipe_names()))
    return RECIPES_DIR / f"{base}.toml"


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def default_recipe(dataset: str, kind: str) -> Recipe:
    """Return the recipe that declares itself the default for students of `kind` on `dataset`.

    Raises:
        UsageError: there is none.
    """
    for name in recipe_names():
        recipe = load_recipe(name)
        if any(dataset == default.dataset and kind in default.kinds for default in recipe.default_for):
            return recipe
    raise UsageError(
        f"no default recipe for {kind} students on {dataset}; choose one with --recipe NAME_OR_FILE: "
        f"{', '.join(recipe_names())}"
    )
