"""The plan: names from the command line become the cells of the grid, and the refusals."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cakdbench.build import refusal
from cakdbench.data.datasets import ImageDataset, dataset_facts
from cakdbench.data.holdout import whole_name
from cakdbench.grid.pairs import Pair, named_run
from cakdbench.grid.suites import PairSpec, link_spec
from cakdbench.grid.tuned import tuning_of
from cakdbench.labels import changes, choices, label, split
from cakdbench.method import Method
from cakdbench.models.ensemble import join_infos
from cakdbench.models.staged import ModelInfo
from cakdbench.models.zoo import model_info
from cakdbench.recipes import Recipe, identity_of
from cakdbench.records import DatasetIdentity, Identity, TeacherIdentity, Tuning
from cakdbench.registry import canonical_label, get_method, resolve_config, split_variant
from cakdbench.source_hash import method_identity, model_source, source_hash
from cakdbench.utils.errors import UsageError

ALWAYS = ("scratch", "kd")
"""Methods that join every plan by themselves: the baselines every gain is measured from."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a method on a pair, under a recipe, with a seed.

    Attributes:
        links: the runs of the plan that teach it or that its student starts from, and so come first: as pair or recipe
            name them, with the cells that make them.
        tuning: how the settings were found, if by tuning; its record says so.
    """

    method: type[Method]
    label: str
    config: Method.Config
    pair: Pair
    recipe: Recipe
    seed: int
    precision: str = "fp32"
    links: tuple[tuple[str, "Cell"], ...] = field(default=(), compare=False)
    tuning: Tuning | None = field(default=None, compare=False)

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

    @property
    def wave(self) -> int:
        """Return how many runs have to be made before it, one after the other."""
        return 1 + max((link.wave for _, link in self.links), default=-1)

    def with_runs(self, keys: Mapping[str, str]) -> "Cell":
        """Return the cell with finished runs, as `run:KEY`, in the place of what names them."""
        teacher = "+".join(keys.get(name, name) for name in self.pair.teachers)
        pair = replace(self.pair, teacher=teacher, models=self.pair.teacher_models)
        recipe = self.recipe.model_copy(update={"init": keys.get(self.recipe.init, self.recipe.init)})
        return replace(self, pair=pair, recipe=recipe, links=())

    def identity(self, dataset: ImageDataset, teacher: TeacherIdentity | None, init: str | None = None) -> Identity:
        """Return all that can change the result of the cell's run.

        Args:
            init: the content that the recipe's `init` names, where that is a file or a run.
        """
        return Identity(
            method=method_identity(self.method, self.config),
            student=self.pair.student,
            student_source=model_source(self.pair.student),
            teacher=teacher,
            dataset=DatasetIdentity(name=dataset.name, fingerprint=dataset.fingerprint, skipped=dataset.skipped),
            recipe=identity_of(self.recipe.numbers() | {"init": init or self.recipe.init}),
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

    def last(self, seed: int) -> Cell:
        """Return the last cell of a seed."""
        return next(cell for cell in reversed(self.cells) if cell.seed == seed)


@dataclass
class Settings:
    """The changes of `--set`: numbers of the recipe, of the teachers' training recipe, of methods.

    Attributes:
        grids: values by `OWNER.KEY` where several were given: every choice of them is in the plan.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    grids: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, items: Iterable[str]) -> "Settings":
        """Read `recipe.epochs=5`, `teacher.epochs=1`, `ofa.gamma=1.2`, and grids: `recipe.epochs=5|10`.

        Raises:
            UsageError: not of this form, a setting that is given twice, or a grid of teachers.
        """
        given: dict[str, list[Any]] = {}
        for item in items:
            name, equals, text = item.partition("=")
            owner, dot, key = name.strip().partition(".")
            if not (equals and dot and key):
                raise UsageError(f"--set {item!r}: write OWNER.KEY=VALUE, as in recipe.epochs=5 or ofa.gamma=1.2")
            name = f"{owner if owner in ('recipe', 'teacher') else get_method(owner).id}.{key}"
            if name in given:
                raise UsageError(f"--set {name} is given twice: give it once, or both values as a grid, {name}=1|2")
            given[name] = choices(text)
            if owner == "teacher" and len(given[name]) > 1:
                raise UsageError(f"--set {item}: the runs of a grid share their teacher; give {name} one value")
        settings = cls(grids={name: values for name, values in given.items() if len(values) > 1})
        return settings._with({name: values[0] for name, values in given.items() if len(values) == 1})

    def each(self) -> Iterator["Settings"]:
        """Yield the settings of every choice of the grids' values, the last grid changing fastest."""
        for values in itertools.product(*self.grids.values()):
            yield self._with(dict(zip(self.grids, values)))

    def _with(self, values: Mapping[str, Any]) -> "Settings":
        """Return these settings and further ones, by `OWNER.KEY`."""
        changed = copy.deepcopy(self)
        for name, value in values.items():
            owner, _, key = name.partition(".")
            own = owner in ("recipe", "teacher")
            table = getattr(changed, owner) if own else changed.methods.setdefault(owner, {})
            table[key] = value
        return changed


def make_plan(
    methods: Iterable[str],
    specs: Iterable[PairSpec],
    seeds: Iterable[int],
    settings: Settings,
    precision: str = "fp32",
    data_dir: Path | None = None,
    download: bool = False,
    teacher_sizes: Mapping[tuple[str, str], int] = {},
    always: Iterable[str] = ALWAYS,
    tunings: Mapping[str, Tuning] = {},
) -> Plan:
    """Return all cells of methods x pairs x seeds; the baselines join by themselves, and runs that others name.

    Args:
        teacher_sizes: pixels of the images of teachers, by model and dataset, where they are not their students'.
        always: the methods that join by themselves.
        tunings: how the settings of labels were found on a dataset, where by tuning, by `LABEL@DATASET`.

    Raises:
        UsageError: a name or a setting is unknown, or a setting is for a method that is not in the plan.
    """
    chosen = list(dict.fromkeys((*always, *(full_label(name) for name in methods))))
    specs, seeds, cells, refusals = list(specs), list(seeds), [], []
    alike = partial(
        make_plan,
        seeds=seeds,
        precision=precision,
        data_dir=data_dir,
        download=download,
        teacher_sizes=teacher_sizes,
        always=(),
        tunings=tunings,
    )
    for own, spec in itertools.product(settings.each(), specs):
        _check_owners(own, chosen)
        recipe = spec.load_recipe(own.recipe)
        links = _plan_links(spec, own, alike)
        sizes = [teacher_sizes.get((name, whole_name(spec.pair.dataset))) for name in spec.pair.teachers]
        infos = pair_info(spec.pair, recipe.image_size, recipe.split, data_dir, download, sizes)
        for name in chosen:
            method, config = _config(name, own, infos, spec.pair.dataset)
            used = {link: plan for link, plan in links.items() if method.needs or link == recipe.init}
            reason = refusal(method, *infos, config) or _too_few(method, infos[1].num_classes, recipe.local_batch)
            if reason := reason or _refused(used):
                refusals.append(Refusal(name, spec.pair, reason))
                continue
            canonical = canonical_label(method, config, *infos, spec.pair.dataset)
            found = tuning_of(tunings, canonical, config, infos, spec.pair.dataset)
            for seed in seeds:
                first = tuple((link, plan.last(seed)) for link, plan in used.items())
                cells.append(Cell(method, canonical, config, spec.pair, recipe, seed, precision, first, found))
            cells += [cell for plan in used.values() for cell in plan.cells]
    return Plan(in_order(cells), list(dict.fromkeys(refusals)))


def _plan_links(spec: PairSpec, settings: Settings, plan: Callable[..., Plan]) -> dict[str, Plan]:
    """Return the plans of the runs that a pair names, by their names; changes of the recipe hold but for the start."""
    changed = {key: value for key, value in settings.recipe.items() if key not in ("init", "init_head")}
    start = "" if "init" in settings.recipe else spec.init or ""
    plans: dict[str, Plan] = {}
    for name in (*spec.pair.teachers, start):
        if run := named_run(name):
            label, pair = run
            plans[name] = plan([label], [link_spec(pair, spec)], settings=Settings(changed, settings.teacher))
    return plans


def _refused(links: Mapping[str, Plan]) -> str | None:
    """Return why one of the runs that come first will not be made."""
    return next((f"{name}: {plan.refusals[0].reason}" for name, plan in links.items() if plan.refusals), None)


def _too_few(method: type[Method], classes: int, images: int) -> str | None:
    """Return why a method has nothing to tell apart, or to relate, in data of so many classes and local batches."""
    if classes < method.least_classes:
        return f"{method.id} needs {method.least_classes} classes or more, and the data have {classes}"
    if images < method.least_batch:
        least = f"{method.least_batch} images or more in a local batch"
        return f"{method.id} needs {least}, and recipe.local_batch is {images}: set it higher"
    return None


def _check_owners(settings: Settings, chosen: list[str]) -> None:
    for id in settings.methods:
        if id not in {split(name)[0] for name in chosen}:
            raise UsageError(f"--set {id}.…: {id} is not among the methods of this run ({', '.join(chosen)})")


def _config(
    name: str, settings: Settings, infos: tuple[ModelInfo, ModelInfo], dataset: str
) -> tuple[type[Method], Method.Config]:
    """Return the method of a name and its settings on a pair."""
    method, variant = split_variant(name)
    overrides = settings.methods.get(method.id, {})
    if twice := changes(variant or "").keys() & overrides:
        raise UsageError(f"{name} and --set {method.id}.{min(twice)}: give the number once")
    return method, resolve_config(method, variant, *infos, dataset, overrides)


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, what others need first, without those that are another under a second name: `ofa[gamma=1]`."""
    names: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        names.setdefault((cell.label, cell.pair, cell.recipe, cell.seed), cell)
    return sorted(names.values(), key=lambda cell: cell.wave)


def full_label(name: str) -> str:
    """Return a name with the method's id in place of an alias: `tas:no_infonce` -> `fbt:no_infonce`."""
    method, variant = split_variant(name)
    return label(method.id, variant)


def pair_info(
    pair: Pair,
    image_size: int,
    split: str = "ofa",
    data_dir: Path | None = None,
    download: bool = False,
    teacher_size: int | Sequence[int | None] | None = None,
) -> tuple[ModelInfo, ModelInfo]:
    """Return the facts of teacher and student that are known without their weights.

    Args:
        teacher_size: pixels of the teacher's images, or of each of several; None: those of the student's.
    """
    classes, models = dataset_facts(pair.dataset, data_dir, download).num_classes, pair.teacher_models
    sizes = teacher_size if isinstance(teacher_size, Sequence) else [teacher_size] * len(models)
    teachers = [model_info(name, classes, size or image_size, split) for name, size in zip(models, sizes)]
    return join_infos(teachers), model_info(pair.student, classes, image_size, split)
