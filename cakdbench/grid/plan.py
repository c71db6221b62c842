"""The plan: names from the command line become the cells of the grid, and the refusals."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cakdbench.build import refusal
from cakdbench.data.datasets import ImageDataset, dataset_facts
from cakdbench.grid.suites import Pair, PairSpec
from cakdbench.labels import changes, label, split, toml_value
from cakdbench.method import Method
from cakdbench.models.staged import ModelInfo
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.records import DatasetIdentity, Identity, TeacherIdentity
from cakdbench.registry import canonical_label, get_method, resolve_config, split_variant
from cakdbench.source_hash import method_identity, model_source, source_hash
from cakdbench.utils.errors import UsageError

ALWAYS = ("scratch", "kd")
"""Methods that join every plan by themselves: the baselines every gain is measured from."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a method on a pair, under a recipe, with a seed."""

    method: type[Method]
    label: str
    config: Method.Config
    pair: Pair
    recipe: Recipe
    seed: int
    precision: str = "fp32"

    @property
    def method_source(self) -> str:
        """sha256 of the method's source."""
        return source_hash(self.method)

    @property
    def needs_teacher(self) -> bool:
        return bool(self.method.needs)

    @property
    def shared(self) -> tuple[object, ...]:
        """Cells that agree in this can share one teacher and one pass over the data."""
        return self.pair.teacher, self.pair.dataset, self.recipe, self.seed, self.precision

    def identity(self, dataset: ImageDataset, teacher: TeacherIdentity | None) -> Identity:
        """Return all that can change the result of the cell's run."""
        return Identity(
            method=method_identity(self.method, self.config),
            student=self.pair.student,
            student_source=model_source(self.pair.student),
            teacher=teacher,
            dataset=DatasetIdentity(name=dataset.name, fingerprint=dataset.fingerprint, skipped=dataset.skipped),
            recipe=self.recipe.identity(),
            precision=self.precision,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Refusal:
    """A cell that will not run, and why."""

    label: str
    pair: Pair
    reason: str


@dataclass
class Plan:
    cells: list[Cell]
    refusals: list[Refusal]


@dataclass
class Settings:
    """The changes of `--set`: numbers of the recipe, of the teachers' training recipe, of methods."""

    recipe: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, items: Iterable[str]) -> "Settings":
        """Read `recipe.epochs=5`, `teacher.epochs=1`, `ofa.gamma=1.2`."""
        settings = cls()
        for item in items:
            name, equals, text = item.partition("=")
            owner, dot, key = name.partition(".")
            if not (equals and dot and key):
                raise UsageError(f"--set {item!r}: write OWNER.KEY=VALUE, as in recipe.epochs=5 or ofa.gamma=1.2")
            if owner in ("recipe", "teacher"):
                getattr(settings, owner)[key] = toml_value(text)
            else:
                settings.methods.setdefault(get_method(owner).id, {})[key] = toml_value(text)
        return settings


def make_plan(
    methods: Iterable[str],
    specs: Iterable[PairSpec],
    seeds: Iterable[int],
    settings: Settings,
    precision: str = "fp32",
    data_dir: Path | None = None,
) -> Plan:
    """Return all cells of methods x pairs x seeds; the baselines join by themselves.

    Raises:
        UsageError: a name or a setting is unknown, or a setting is for a method that is not in the plan.
    """
    chosen = list(dict.fromkeys((*ALWAYS, *(full_label(name) for name in methods))))
    for id in settings.methods:
        if id not in {split(name)[0] for name in chosen}:
            raise UsageError(f"--set {id}.…: {id} is not among the methods of this run ({', '.join(chosen)})")
    seeds, cells, refusals = list(seeds), [], []
    for spec in specs:
        recipe = load_recipe(spec.recipe).override(settings.recipe)
        infos = pair_info(spec.pair, recipe.image_size, recipe.split, data_dir)
        for name in chosen:
            method, config = _config(name, settings, infos, spec.pair.dataset)
            if reason := refusal(method, *infos, config):
                refusals.append(Refusal(name, spec.pair, reason))
                continue
            own = canonical_label(method, config, *infos, spec.pair.dataset)
            cells += [Cell(method, own, config, spec.pair, recipe, seed, precision) for seed in seeds]
    return Plan(_once_each(cells), refusals)


def _config(
    name: str, settings: Settings, infos: tuple[ModelInfo, ModelInfo], dataset: str
) -> tuple[type[Method], Method.Config]:
    """Return the method of a name and its settings on a pair."""
    method, variant = split_variant(name)
    overrides = settings.methods.get(method.id, {})
    if twice := changes(variant or "").keys() & overrides:
        raise UsageError(f"{name} and --set {method.id}.{min(twice)}: give the number once")
    return method, resolve_config(method, variant, *infos, dataset, overrides)


def _once_each(cells: list[Cell]) -> list[Cell]:
    """Return the cells without those that are another under a second name: `ofa` and `ofa[gamma=1]`."""
    names: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        names.setdefault((cell.label, cell.pair, cell.recipe, cell.seed), cell)
    return list(names.values())


def full_label(name: str) -> str:
    """Return a name with the method's id in place of an alias: `tas:no_infonce` -> `fbt:no_infonce`."""
    method, variant = split_variant(name)
    return label(method.id, variant)


def pair_info(
    pair: Pair, image_size: int, split: str = "ofa", data_dir: Path | None = None
) -> tuple[ModelInfo, ModelInfo]:
    """Return the facts of teacher and student that are known without their weights."""
    classes = dataset_facts(pair.dataset, data_dir).num_classes
    models = pair.teacher_model, pair.student
    teacher, student = (model_info(name, classes, image_size, split) for name in models)
    return teacher, student
