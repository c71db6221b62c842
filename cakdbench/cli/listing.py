"""List what can be named on the command line, as tables."""

from pathlib import Path

from rich.table import Table

from cakdbench.data.datasets import dataset_facts, dataset_names
from cakdbench.grid.suites import suites
from cakdbench.grid.teachers import load_teachers, teachers_from_file
from cakdbench.models.zoo import MODELS, model_info
from cakdbench.recipes import load_recipe, recipe_names


def pairs() -> Table:
    table = Table("suite or group", "teacher > student @ dataset", "recipe")
    for suite in suites().values():
        for spec in suite.specs:
            table.add_row(suite.name, str(spec.pair), spec.recipe)
        table.add_section()
    return table


def models() -> Table:
    table = Table("model", "title", "kind", "params at 1000 classes", "image", "hub weights", "notes")
    for name, entry in MODELS.items():
        size = f"{model_info(name, 1000, entry.image_size).parameters / 1e6:.2f} M"
        table.add_row(name, entry.title, entry.kind, size, str(entry.image_size), entry.hub or "-", entry.notes)
    return table


def datasets() -> Table:
    table = Table("dataset", "title", "classes", "training images", "test images")
    for name in dataset_names():
        facts = dataset_facts(name)
        table.add_row(name, facts.title, *(f"{n:,}" for n in (facts.num_classes, facts.n_train, facts.n_test)))
    table.add_row("timm:NAME", "whatever timm.data.create_dataset opens", "", "", "")
    return table


def recipes() -> Table:
    table = Table("recipe", "title", "epochs", "batch (local)", "optimizer", "lr", "source")
    for name in recipe_names():
        recipe = load_recipe(name)
        batch = f"{recipe.global_batch} ({recipe.local_batch})"
        optimizer = recipe.optimizer
        table.add_row(name, recipe.title, str(recipe.epochs), batch, optimizer.name, f"{optimizer.lr:g}", recipe.source)
    return table


def teachers(extra: list[Path]) -> Table:
    """List the registry's teachers and those of `extra` files, which win over them."""
    own = {name: path.name for path in extra for name in teachers_from_file(path)}
    table = Table("teacher", "weights", "entry in", "top-1 %", "tolerance", "also reported", "notes")
    for name, entry in load_teachers(extra).items():
        reported = ", ".join(f"{number.accuracy:g} ({number.by})" for number in entry.reported)
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:g}"
        where = own.get(name, "registry")
        table.add_row("@".join(name), entry.source, where, accuracy, f"{entry.allowed:g}", reported or "-", entry.notes)
    return table
