"""List what can be named on the command line, as tables."""

from pathlib import Path

from rich.table import Table

from cakdbench.data.datasets import dataset_facts, dataset_names
from cakdbench.grid.suites import suites
from cakdbench.grid.teachers import load_teachers
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
        info = model_info(name, 1000, entry.image_size)
        size = f"{info.parameters / 1e6:.2f} M"
        table.add_row(name, entry.title, info.kind, size, str(entry.image_size), entry.hub or "-", entry.notes)
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
    table = Table("teacher", "weights", "top-1 %", "tolerance", "also reported", "notes")
    for entry in load_teachers(extra).values():
        reported = ", ".join(f"{number.accuracy:g} ({number.by})" for number in entry.reported)
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:g}"
        table.add_row(
            f"{entry.model}@{entry.dataset}", entry.source, accuracy, f"{entry.allowed:g}", reported or "-", entry.notes
        )
    return table
