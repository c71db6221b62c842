"""Show method cards, made of what a method's file says, for `list methods` and `explain`."""

import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cakdbench.build import count_extra_parameters, refusal
from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.method import Method
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.recipes import load_recipe
from cakdbench.registry import methods_in_order, resolve_config, setting_docs
from cakdbench.utils.errors import UsageError


def methods_table(pair: str) -> Table:
    """Return one line per method; extra parameters are counted on `pair`."""
    spec = one_pair(pair)
    table = Table(title=Text(f"extra parameters: on {spec.pair}"), title_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("extra parameters", justify="right", no_wrap=True)
    for name in ("kind", "year", "title", "uses of the teacher", "paper"):
        table.add_column(name)
    for method in methods_in_order():
        uses = ", ".join(sorted(method.needs)) or "-"
        names = ", ".join((method.id, *method.aliases))
        facts = names, _extra(method, spec), method.kind, str(method.year or "-"), method.title, uses, method.paper
        table.add_row(*map(Text, facts))
    return table


def variants_table() -> Table:
    """Return one line per variant: what it changes."""
    table = Table("variant", "changes")
    for method in methods_in_order():
        for name, values in method.variants.items():
            table.add_row(*map(Text, (f"{method.id}:{name}", _assignments(values))))
        table.add_section()
    return table


def one_pair(name: str) -> PairSpec:
    specs = resolve_pairs(name)
    if len(specs) != 1:
        raise UsageError(f"--pair {name!r}: give one pair, as in swin_t>resnet18@cifar100")
    return specs[0]


def _extra(method: type[Method], spec: PairSpec) -> str:
    try:
        count = extra_parameters(method, spec)
    except Exception:  # a method of the user's own may raise anything; a run or `check` says what
        return "fails"
    return "refused" if count is None else f"{count:,}"


def extra_parameters(method: type[Method], spec: PairSpec) -> int | None:
    """Return the trainable parameters besides the student's, without allocating any; None where the pair is refused."""
    student, teacher = _models(spec)
    config = resolve_config(method, None, teacher.info, student.info, spec.pair.dataset)
    if refusal(method, teacher.info, student.info, config):
        return None
    return count_extra_parameters(method, student, teacher, config)


@functools.lru_cache(maxsize=4)
def _models(spec: PairSpec) -> tuple[StagedModel, StagedModel]:
    """Return student and teacher of a pair, on the meta device."""
    pair, recipe = spec.pair, load_recipe(spec.recipe)
    classes = dataset_facts(pair.dataset).num_classes
    names = pair.student, pair.teacher_model
    student, teacher = (meta_model(name, classes, recipe.image_size, recipe.split) for name in names)
    return student, teacher


def explanation(method: type[Method], pair: str) -> Iterator[RenderableType]:
    """Yield the card of one method: facts, the text of its module, settings, variants."""
    yield Text(f"{method.title} ({', '.join((method.id, *method.aliases))})", "bold")
    yield _facts(method, one_pair(pair))
    yield Text(_flowing(inspect.cleandoc(sys.modules[method.__module__].__doc__ or method.__doc__ or "")))
    if fields(method.Config):
        yield Text("Settings. " + " ".join((method.Config.__doc__ or "").partition("Attributes:")[0].split()))
        yield _settings_table(method)
    for setting in method.settings:
        where = ", ".join(f"{key} {value}" for key, value in setting.where.items())
        yield Text(f"where {where}: {_assignments(setting.values)}")
    if method.variants:
        yield _variants_of(method)


def _flowing(text: str) -> str:
    """Return paragraphs as one line each, for a terminal of any width; indented blocks and lists stay as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(b if any(line[:1] in " -" for line in b.splitlines()) else " ".join(b.split()) for b in blocks)


def _facts(method: type[Method], spec: PairSpec) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("paper", Text(" ".join(filter(None, (method.paper, method.url)))))
    table.add_row("kind", method.kind)
    table.add_row("uses of the teacher", ", ".join(sorted(method.needs)) or "nothing")
    table.add_row("extra parameters", f"{_extra(method, spec)} on {spec.pair}")
    return table


def _settings_table(method: type[Method]) -> Table:
    meanings = setting_docs(method.Config)
    table = Table("setting", "default", "meaning")
    for setting in fields(method.Config):
        table.add_row(setting.name, Text(str(_default(setting))), Text(meanings.get(setting.name, "")))
    return table


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _variants_of(method: type[Method]) -> Table:
    table = Table("variant", "changes")
    for name, values in method.variants.items():
        table.add_row(*map(Text, (f"{method.id}:{name}", _assignments(values))))
    return table


def _assignments(values: Any) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
