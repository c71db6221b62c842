"""Recipes: every number of a training protocol, as a validated file."""

from cakdbench.recipes.files import (
    RECIPES_DIR,
    default_recipe,
    load_recipe,
    recipe_files,
    recipe_from_file,
    recipe_names,
)
from cakdbench.recipes.schema import (
    Augment,
    Kind,
    Optimizer,
    Recipe,
    all_numbers,
    identity_of,
    recipe_settings,
)

__all__ = [
    "RECIPES_DIR",
    "Augment",
    "Kind",
    "Optimizer",
    "Recipe",
    "all_numbers",
    "default_recipe",
    "identity_of",
    "load_recipe",
    "recipe_files",
    "recipe_from_file",
    "recipe_names",
    "recipe_settings",
]
