"""The columns of a board, and what makes a run a standard run of one."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cakdbench.build import refusal
from cakdbench.data.datasets import dataset_facts
from cakdbench.data.shipped import other_data
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import pair_info
from cakdbench.grid.suites import PairSpec, Suite
from cakdbench.method import Method
from cakdbench.published.compare import printed_cells
from cakdbench.published.ledger import Printed
from cakdbench.recipes import all_numbers, identity_of
from cakdbench.records import ENGINE_VERSION, MethodIdentity, Record
from cakdbench.registry import (
    all_settings,
    canonical_label,
    config_identity,
    get_method,
    method_of_record,
    resolve_config,
    split_variant,
)
from cakdbench.source_hash import is_built_in
from cakdbench.utils.diff import changes, exact_text
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.models.staged import ModelInfo


@dataclass(frozen=True)
class Column:
    """A pair under its recipe.

    Attributes:
        numbers: everything of the recipe that can change a result.
        protocol: that of the printed numbers shown beside the measured ones, if there are any.
        init: the run that its students start from. models: of its teachers, where a store has to tell; see `Pair`.
        written: the numbers as JSON; by it columns of recipes of one name are told apart.
    """

    teacher: str
    student: str
    dataset: str
    recipe: str
    numbers: Mapping[str, Any] = field(compare=False)
    test_images: int
    protocol: str | None = None
    init: str = ""
    models: tuple[str, ...] = ()
    written: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "written", exact_text(dict(self.numbers)))

    @property
    def pair(self) -> str:
        return f"{self.teacher}>{self.student}@{self.dataset}"

    def concerns(self, record: Record) -> bool:
        """Return True for a run of this pair, under whatever settings."""
        identity = record.identity
        # A method without teacher knows of none: its run is the same on every pair of its student, and counts there.
        teacher_fits = identity.teacher is None or identity.teacher.model == self.teacher
        return teacher_fits and (identity.student, identity.dataset.name) == (self.student, self.dataset)


def board_columns(suites: Iterable[Suite], board: str, data_dir: Path | None = None) -> list[Column]:
    """Return the columns of one board: every pair of its suites once, in their order."""
    specs = {spec: suite.protocol for suite in suites if suite.board == board for spec in suite.specs}
    return [column_of(spec, protocol, data_dir) for spec, protocol in specs.items()]


def column_of(spec: PairSpec, protocol: str | None = None, data_dir: Path | None = None) -> Column:
    """Return a pair and its recipe as a column; a `timm:` dataset is opened in `data_dir` to count its images."""
    recipe, pair = spec.load_recipe(), spec.pair
    images = dataset_facts(pair.dataset, data_dir).n_test
    names = pair.teacher, pair.student, pair.dataset, recipe.name
    return Column(*names, recipe.numbers(), images, protocol, spec.init or "", pair.models)


class Standard:
    """The rules of the installed methods, recipes and printed numbers; `data_dir` is for `timm:` datasets alone."""

    def __init__(self, data_dir: Path | None = None):
        self.data_dir = data_dir

    def differences(self, record: Record, column: Column) -> list[str]:
        """Return what keeps a run from being a standard run of the column, each number with both values."""
        try:
            self.label(record, column)
            other_code = _other_code(record.identity.method)
        except UsageError as error:
            return [f"settings of {record.label} cannot be checked: {error}"]
        data, engine = record.identity.dataset, record.identity.engine_version
        if engine != ENGINE_VERSION:
            other_code.append(f"engine version {engine} (standard {ENGINE_VERSION})")
        if other_data(data.name, data.fingerprint):
            other_code.append(f"data with the fingerprint {data.fingerprint[:8]}, which are not {data.name}'s")
        if record.teacher and not record.teacher.standard:
            other_code.append(f"a teacher that is not the registry's ({record.teacher.source})")
        return _recipe_changes(exact_text(record.identity.recipe), column) + other_code or self._spelling(
            record, column
        )

    def _spelling(self, record: Record, column: Column) -> list[str]:
        """Return what a standard run writes in another way than the standard, so that it has another key."""
        identity = record.identity
        pairs = {
            "method": (identity.method.config, exact_text(self._normal(record, column)[1])),
            "recipe": (identity.recipe, _recipe_text(column)),
        }
        odd = [name for name, (own, normal) in pairs.items() if exact_text(own) != normal]
        return [f"settings of the {name} are written in another way than in a key" for name in odd]

    def label(self, record: Record, column: Column) -> str:
        """Return the row a run belongs to: the canonical name of its settings on the pair.

        Raises:
            UsageError: the method is not installed, or the settings are none of it.
        """
        return self._normal(record, column)[0]

    def _normal(self, record: Record, column: Column) -> tuple[str, Mapping[str, Any]]:
        method, teacher = record.identity.method, record.identity.teacher
        return _normal(
            method.id, exact_text(method.config), column, self.data_dir, teacher.image_size if teacher else None
        )

    def canonical(self, label: str, column: Column) -> str:
        """Return the row that a label means on the pair: `fofa` for `fofa:n_q_64`, where that is the default.

        Raises:
            UsageError: the method is not installed, or the settings are none of it.
        """
        return _canonical(label, column, self.data_dir)

    def refusal(self, label: str, column: Column) -> str | None:
        """Return the method's own reason for not running on the pair."""
        return _refusal(label, column, self.data_dir)

    def title(self, label: str) -> str:
        """Return the registered title, with the variant if any; the label if the method is not installed."""
        method, variant = _registered(label)
        return label if method is None else f"{method.title}: {variant}" if variant else method.title

    def kind(self, label: str) -> str | None:
        """Return what the registered method transfers; None without such a method or variant."""
        method, _ = _registered(label)
        return None if method is None else method.kind

    def printed(self, column: Column, metric: str = "top1") -> Mapping[str, tuple[Printed, ...]]:
        """Return the accuracies that papers print for the pair, by method."""
        models = (column.teacher, column.student, column.dataset)
        cells = printed_cells(column.protocol, metric) if column.protocol else {}
        return {method: values for (*pair, method), values in cells.items() if tuple(pair) == models}


def _registered(label: str) -> tuple[type[Method] | None, str | None]:
    try:
        return split_variant(label)
    except UsageError:
        return None, None


@functools.cache
def _normal(
    id: str, settings: str, column: Column, data_dir: Path | None, teacher_size: int | None
) -> tuple[str, Mapping[str, Any]]:
    """Return the canonical name of a method's settings, and the settings as a key holds them."""
    method, infos = _method(id), _infos(column, data_dir, teacher_size)
    config = resolve_config(method, None, *infos, column.dataset, all_settings(method, json.loads(settings)))
    return canonical_label(method, config, *infos, column.dataset), config_identity(config)


@functools.cache
def _recipe_changes(recipe: str, column: Column) -> list[str]:
    """Return the numbers of a recipe, as JSON of a key has them, that are not the column's."""
    return changes(all_numbers(json.loads(recipe)), column.numbers, "recipe")


@functools.cache
def _recipe_text(column: Column) -> str:
    """Return the column's recipe as a key has it."""
    return exact_text(identity_of(column.numbers))


def _method(id: str) -> type[Method]:
    """Return the method that a record names, by its id alone.

    Raises:
        UsageError: there is none, or the id is another spelling of one.
    """
    return method_of_record(id) or get_method(id)


@functools.cache
def _canonical(label: str, column: Column, data_dir: Path | None) -> str:
    method, variant = split_variant(label)
    if variant is None:
        return method.id
    infos = _infos(column, data_dir)
    config = resolve_config(method, variant, *infos, column.dataset)
    return canonical_label(method, config, *infos, column.dataset)


def _other_code(identity: MethodIdentity) -> list[str]:
    """Return why a run of a built-in method was computed by other code than its present version."""
    method = get_method(identity.id)
    if not is_built_in(method) or identity.version == method.version:
        return []
    if identity.version is None:
        return [f"{identity.id} as code that no version of it has ({(identity.source or '')[:16]})"]
    return [f"version {identity.version} of {identity.id} (standard {method.version})"]


@functools.cache
def _refusal(label: str, column: Column, data_dir: Path | None) -> str | None:
    try:
        method, variant = split_variant(label)
        infos = _infos(column, data_dir)
        return refusal(method, *infos, resolve_config(method, variant, *infos, column.dataset))
    except UsageError as error:
        return str(error)


def _infos(column: Column, data_dir: Path | None, teacher_size: int | None = None) -> "tuple[ModelInfo, ModelInfo]":
    pair = Pair(column.teacher, column.student, column.dataset, column.models)
    return pair_info(pair, column.numbers["image_size"], column.numbers["split"], data_dir, teacher_size=teacher_size)
