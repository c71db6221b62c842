"""The standard of a board: its columns from the suites, and what makes a record a standard run of one.

Standard are the numbers of the pair's recipe as it is installed, and the method's settings as
`resolve_config` gives them for the pair and the variant. Everything else (device, processes, compilation) may
vary; precision is no setting: each has a block of its own.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.plan import pair_info
from cakdbench.grid.suites import Pair, PairSpec, Suite
from cakdbench.models.staged import ModelInfo
from cakdbench.published.compare import Printed, printed_cells
from cakdbench.recipes import load_recipe
from cakdbench.records import MethodIdentity, Record
from cakdbench.registry import all_settings, canonical_label, get_method, resolve_config, split_variant
from cakdbench.reports.board import Column
from cakdbench.source_hash import is_built_in
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import UsageError


def board_columns(suites: Iterable[Suite], board: str) -> list[Column]:
    """The columns of one board: every pair of its suites once, in their order."""
    specs = {spec: suite.protocol for suite in suites if suite.board == board for spec in suite.specs}
    return [column_of(spec, protocol) for spec, protocol in specs.items()]


def column_of(spec: PairSpec, protocol: str | None = None, data_dir: Path | None = None) -> Column:
    """A pair and its recipe as a column; a `timm:` dataset is opened in `data_dir` to count its images."""
    recipe, pair = load_recipe(spec.recipe), spec.pair
    images = dataset_facts(pair.dataset, data_dir).n_test
    return Column(pair.teacher, pair.student, pair.dataset, recipe.name, recipe.numbers(), images, protocol)


class Standard:
    """The rules of the installed methods.

    Args:
        data_dir: where the datasets lie; only for pairs on `timm:` datasets.
    """

    def __init__(self, data_dir: Path | None = None):
        self.data_dir = data_dir

    def differences(self, record: Record, column: Column) -> list[str]:
        """Return what keeps a record from being a standard run of the column, each number with both values."""
        try:
            self.label(record, column)
            other_code = _other_code(record.identity.method)
        except UsageError as error:
            return [f"settings of {record.label} cannot be checked: {error}"]
        own = record.teacher is not None and not record.teacher.standard
        return [
            *changes(record.recipe, column.numbers, "recipe"),
            *other_code,
            *([f"a teacher that is not the registry's ({record.teacher.source})"] if own else []),
        ]

    def label(self, record: Record, column: Column) -> str:
        """Return the row a record belongs to: the canonical name of its settings on the pair.

        Raises:
            UsageError: the method is not installed, or the settings are none of it.
        """
        method = record.identity.method
        return _label(method.id, json.dumps(method.config, sort_keys=True), column, self.data_dir)

    def refusal(self, label: str, column: Column) -> str | None:
        """The method's own reason for not running on the pair."""
        try:
            return _refusal(label, column, self.data_dir)
        except UsageError as error:
            return str(error)

    def title(self, label: str) -> str:
        """The registered title, with the variant if any; the label if the method is not installed."""
        if not self.installed(label):
            return label
        method, variant = split_variant(label)
        return f"{method.title}: {variant}" if variant else method.title

    def installed(self, label: str) -> bool:
        """Whether the method is registered and has the variant."""
        try:
            split_variant(label)
        except UsageError:
            return False
        return True

    def printed(self, column: Column) -> Mapping[str, tuple[Printed, ...]]:
        """The accuracies that papers print for the pair, by method."""
        if column.protocol is None:
            return {}
        wanted = (column.teacher, column.student, column.dataset)
        return {
            method: found for (*pair, method), found in printed_cells(column.protocol).items() if tuple(pair) == wanted
        }


@functools.cache
def _label(id: str, settings: str, column: Column, data_dir: Path | None) -> str:
    method, infos = get_method(id), _infos(column, data_dir)
    values = all_settings(method, json.loads(settings))
    return canonical_label(method, resolve_config(method, None, *infos, column.dataset, values), *infos, column.dataset)


def _other_code(identity: MethodIdentity) -> list[str]:
    """Return why a record of a built-in method was computed by other code than its present version."""
    method = get_method(identity.id)
    if not is_built_in(method) or identity.version == method.version:
        return []
    if identity.version is None:
        return [f"{identity.id} as code that no version of it has ({identity.source[:16]})"]
    return [f"version {identity.version} of {identity.id} (standard {method.version})"]


@functools.cache
def _refusal(label: str, column: Column, data_dir: Path | None) -> str | None:
    method, variant = split_variant(label)
    teacher, student = _infos(column, data_dir)
    return method.refuses(teacher, student, resolve_config(method, variant, teacher, student, column.dataset))


def _infos(column: Column, data_dir: Path | None) -> tuple[ModelInfo, ModelInfo]:
    pair = Pair(column.teacher, column.student, column.dataset)
    return pair_info(pair, column.numbers["image_size"], column.numbers["split"], data_dir)
