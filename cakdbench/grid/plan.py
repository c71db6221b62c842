"""The plan: names from the command line become the cells of the grid, and the refusals."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cakdbench.data.datasets import ImageDataset, dataset_facts
from cakdbench.grid.suites import Pair, PairSpec
from cakdbench.labels import changes, label, split, toml_value
from cakdbench.method import Method
from cakdbench.models.staged import ModelInfo
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.records import DatasetIdentity, Identity, MethodIdentity, TeacherIdentity
from cakdbench.registry import get_method, resolve_config, split_variant
from cakdbench.source_hash import source_hash
from cakdbench.utils.errors import UsageError

ALWAYS = ("scratch", "kd")
"""Methods that join every plan by themselves: the baselines every gain is measured from."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a method on a pair, under a recipe, with a seed."""

    method: type[Method]
    variant: str | None
    config: Method.Config
    pair: Pair
    recipe: Recipe
    seed: int
    precision: str = "fp32"

    @property
    def label(self) -> str:
        return label(self.method.id, self.variant)

    @property
    def needs_teacher(self) -> bool:
        return bool(self.method.needs)

    @property
    def shared(self) -> tuple[object, ...]:
        """Cells that agree in this can share one teacher and one pass over the data."""
        return self.pair.teacher, self.pair.dataset, self.recipe, self.seed, self.precision

    def identity(self, dataset: ImageDataset, teacher: TeacherIdentity | None) -> Identity:
        """All that can change the result of the cell's run."""
        return Identity(
            method=MethodIdentity(
                id=self.method.id,
                variant=self.variant,
                config=asdict(self.config),
                source=source_hash(self.method),
            ),
            student=self.pair.student,
            teacher=teacher,
            dataset=DatasetIdentity(name=dataset.name, fingerprint=dataset.fingerprint),
            recipe=self.recipe.numbers(),
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
    """What `--set` changes: numbers of the recipe, of the teachers' training recipe, of methods."""

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
    """All cells of methods x pairs x seeds; the baselines join by themselves.

    Raises:
        UsageError: a name or a setting is unknown, or a setting is for a method that is not in the plan.
    """
    chosen = list(dict.fromkeys((*ALWAYS, *(canonical_label(name) for name in methods))))
    for id in settings.methods:
        if id not in {split(name)[0] for name in chosen}:
            raise UsageError(f"--set {id}.…: {id} is not among the methods of this run ({', '.join(chosen)})")
    plan = Plan([], [])
    seeds = list(seeds)
    for spec in specs:
        recipe = load_recipe(spec.recipe).override(settings.recipe)
        infos = pair_info(spec.pair, recipe.image_size, recipe.split, data_dir)
        for name in chosen:
            method, variant = split_variant(name)
            overrides = settings.methods.get(method.id, {})
            if twice := changes(variant or "").keys() & overrides:
                raise UsageError(f"{name} and --set {method.id}.{min(twice)}: give the number once")
            config = resolve_config(method, variant, *infos, spec.pair.dataset, overrides)
            reason = method.refuses(*infos, config)
            if reason:
                plan.refusals.append(Refusal(name, spec.pair, reason))
            else:
                plan.cells += [Cell(method, variant, config, spec.pair, recipe, seed, precision) for seed in seeds]
    return plan


def canonical_label(name: str) -> str:
    """`tas:no_infonce` -> `fbt:no_infonce`."""
    method, variant = split_variant(name)
    return label(method.id, variant)


def pair_info(
    pair: Pair, image_size: int, split: str = "ofa", data_dir: Path | None = None
) -> tuple[ModelInfo, ModelInfo]:
    """What is known of teacher and student without their weights."""
    classes = dataset_facts(pair.dataset, data_dir).num_classes
    models = pair.teacher_model, pair.student
    return tuple(model_info(name, classes, image_size, split) for name in models)
