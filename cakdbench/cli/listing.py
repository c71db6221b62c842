"""List what can be named on the command line."""

from pathlib import Path

from cakdbench.cli.tables import Listing
from cakdbench.data.datasets import dataset_facts, dataset_names
from cakdbench.grid.experiments import Experiment, experiment_names, load_experiment
from cakdbench.grid.pairs import RUN
from cakdbench.grid.suites import suites
from cakdbench.grid.teachers import load_teachers, teachers_from_file
from cakdbench.models.zoo import MODELS, model_info
from cakdbench.recipes import load_recipe, recipe_names


def pairs() -> Listing:
    """Return every pair of every suite, with its recipe."""
    rows = [
        {"suite or group": suite.name, "teacher > student @ dataset": str(spec.pair), "recipe": spec.recipe}
        for suite in suites().values()
        for spec in suite.specs
    ]
    return Listing(rows, sections=True)


def experiments() -> Listing:
    """Return the tables of papers that a run can be named by, and how many runs of a seed they have, tiny too."""
    rows = []
    for name in experiment_names():
        experiment = load_experiment(name)
        without = sum(bool(spot.why) for spot in experiment.spots)
        row = {"experiment": name, "title": experiment.file.title, "pairs": len(experiment.specs)}
        row |= {"runs": _runs(experiment), "runs, tiny": _runs(load_experiment(name, tiny=True))}
        rows.append(row | {"printed": len(experiment.spots), "of them without a run": without})
    numbers = ["pairs", "runs", "runs, tiny", "printed", "of them without a run"]
    return Listing(rows, ["title"], numbers, "printed numbers, and runs of one seed")


def _runs(experiment: Experiment) -> int:
    """Count the runs of one seed; scratch is one for all pairs of its student, and a chain has runs before its own."""
    grid = [(label, spec) for labels, specs in experiment.grids().items() for label in labels for spec in specs]
    first = {name for _, spec in grid for name in (*spec.pair.teachers, spec.init or "") if name.startswith(RUN)}
    alone = {f"{RUN}{label}:{spec.pair}" for label, spec in grid if not spec.init}
    own = {(label, spec if label != "scratch" else (spec.pair.student, spec.recipe)) for label, spec in grid}
    return len(own) + len(first - alone)


def models() -> Listing:
    rows = [
        {
            "model": name,
            "kind": entry.kind,
            "parameters": model_info(name, 1000, entry.image_size).parameters,  # with 1000 classes
            "image": entry.image_size,
            "hub weights": entry.hub,
            "title": entry.title,
            "notes": entry.notes,
        }
        for name, entry in MODELS.items()
    ]
    return Listing(rows, ["title", "notes"], ["parameters", "image"], "parameters: with 1000 classes")


def datasets() -> Listing:
    facts = {name: dataset_facts(name) for name in dataset_names()}
    rows = [
        {
            "dataset": name,
            "classes": f.num_classes,
            "training images": f.n_train,
            "test images": f.n_test,
            "title": f.title,
        }
        for name, f in facts.items()
    ]
    anything = {"dataset": "timm:NAME", "title": "whatever timm.data.create_dataset opens"}
    return Listing([*rows, anything], ["title"], ["classes", "training images", "test images"])


def recipes() -> Listing:
    rows = [
        {
            "recipe": recipe.name,
            "epochs": recipe.epochs,
            "batch": recipe.global_batch,
            "local batch": recipe.local_batch,
            "optimizer": recipe.optimizer.name,
            "lr": recipe.optimizer.lr,
            "title": recipe.title,
            "source": recipe.source,
        }
        for recipe in map(load_recipe, recipe_names())
    ]
    return Listing(rows, ["title", "source"], ["epochs", "batch", "local batch", "lr"])


def teachers(extra: list[Path]) -> Listing:
    """Return the registry's teachers and those of `extra` files, which win over them; accuracies in percent."""
    own = {name: path.name for path in extra for name in teachers_from_file(path)}
    rows = [
        {
            "teacher": "@".join(name),
            "top-1": entry.accuracy,
            "tolerance": entry.allowed,
            "entry in": own.get(name, "registry"),
            "weights": entry.source,
            "also reported": [f"{number.accuracy:g} ({number.by})" for number in entry.reported] or None,
            "notes": entry.notes or None,
        }
        for name, entry in load_teachers(extra).items()
    ]
    return Listing(rows, ["weights", "also reported", "notes"], ["top-1", "tolerance"])
