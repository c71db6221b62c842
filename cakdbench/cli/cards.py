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
from cakdbench.cli.tables import Listing
from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.labels import value_text
from cakdbench.method import Method, Tunable, tunables
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.recipes import load_recipe
from cakdbench.registry import methods_in_order, resolve_config, setting_docs
from cakdbench.utils.errors import RAISED, UsageError, describe_error, file_of


def all_methods(pair: str) -> Listing:
    """Return one line per method; extra parameters are counted on `pair`, or it is said why it is refused."""
    spec = one_pair(pair)
    rows = [_method_row(method, spec) for method in methods_in_order()]
    prose = ["refused because", "title", "uses of the teacher", "paper"]
    return Listing(rows, prose, ["extra parameters"], f"extra parameters: on {spec.pair}")


def _method_row(method: type[Method], spec: PairSpec) -> dict[str, Any]:
    count, reason = _extra(method, spec)
    return {
        "method": method.id,
        "aliases": method.aliases or None,
        "extra parameters": count,
        "refused because": reason,
        "kind": method.kind,
        "year": method.year,
        "title": method.title,
        "uses of the teacher": sorted(method.needs) or None,
        "paper": method.paper,
    }


def all_variants() -> Listing:
    """Return one line per variant: what it changes."""
    return Listing([row for method in methods_in_order() for row in _variant_rows(method)], ["changes"])


def _variant_rows(method: type[Method]) -> list[dict[str, str]]:
    named = method.variants.items()
    return [{"variant": f"{method.id}:{name}", "changes": _assignments(values)} for name, values in named]


def one_pair(name: str) -> PairSpec:
    specs = resolve_pairs(name)
    if len(specs) != 1:
        raise UsageError(f"--pair {name!r}: give one pair, as in swin_t>resnet18@cifar100")
    return specs[0]


def _extra(method: type[Method], spec: PairSpec) -> tuple[int | None, str | None]:
    """Return the extra parameters of a method on a pair, or why there is no number."""
    try:
        return extra_parameters(method, spec), refusal_of(method, spec)
    except RAISED as error:  # a method of the user's own may raise anything
        return None, f"it fails: {describe_error(error, file_of(method))}"


def extra_parameters(method: type[Method], spec: PairSpec) -> int | None:
    """Return the trainable parameters besides the student's, without allocating any; None where the pair is refused."""
    student, teacher = _models(spec)
    config = resolve_config(method, None, teacher.info, student.info, spec.pair.dataset)
    return None if refusal_of(method, spec) else count_extra_parameters(method, student, teacher, config)


def refusal_of(method: type[Method], spec: PairSpec) -> str | None:
    """Return the reason why a method does not run on a pair."""
    student, teacher = _models(spec)
    config = resolve_config(method, None, teacher.info, student.info, spec.pair.dataset)
    return refusal(method, teacher.info, student.info, config)


@functools.lru_cache(maxsize=4)
def _models(spec: PairSpec) -> tuple[StagedModel, StagedModel]:
    """Return student and teacher of a pair, on the meta device."""
    pair, recipe = spec.pair, load_recipe(spec.recipe)
    classes = dataset_facts(pair.dataset).num_classes
    names = pair.student, *pair.teacher_models
    student, *teachers = (meta_model(name, classes, recipe.image_size, recipe.split) for name in names)
    return student, join(teachers)


def explanation(method: type[Method], pair: str) -> Iterator[RenderableType]:
    """Yield the card of one method: facts, the text of its module, settings, variants."""
    yield Text(f"{method.title} ({', '.join((method.id, *method.aliases))})", "bold")
    yield _facts(method, one_pair(pair))
    yield Text(_flowing(inspect.cleandoc(sys.modules[method.__module__].__doc__ or method.__doc__ or "")))
    if fields(method.Config):
        yield Text("Settings. " + " ".join((method.Config.__doc__ or "").partition("Attributes:")[0].split()))
        yield _settings_of(method)
    for setting in method.settings:
        where = ", ".join(f"{key} {value}" for key, value in setting.where.items())
        yield Text(f"where {where}: {_assignments(setting.values)}")
    if method.variants:
        yield Listing(_variant_rows(method), ["changes"])


def _flowing(text: str) -> str:
    """Return paragraphs as one line each, for a terminal of any width; indented blocks and lists stay as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(b if any(line[:1] in " -" for line in b.splitlines()) else " ".join(b.split()) for b in blocks)


def _facts(method: type[Method], spec: PairSpec) -> Table:
    table, (count, reason) = Table.grid(padding=(0, 2)), _extra(method, spec)
    table.add_row("paper", Text(" ".join(filter(None, (method.paper, method.url)))))
    table.add_row("kind", method.kind)
    table.add_row("uses of the teacher", ", ".join(sorted(method.needs)) or "nothing")
    table.add_row(
        "extra parameters", Text(f"refused on {spec.pair}: {reason}" if reason else f"{count:,} on {spec.pair}")
    )
    return table


def _settings_of(method: type[Method]) -> Listing:
    meanings, searched = setting_docs(method.Config), tunables(method.Config)
    rows = [
        {
            "setting": s.name,
            "default": _shown(_default(s)),
            "tunable": _range(searched[s.name]) if s.name in searched else None,
            "meaning": meanings.get(s.name),
        }
        for s in fields(method.Config)
    ]
    return Listing(rows, ["meaning"])


def _range(space: Tunable) -> str:
    """Return `0.01 to 10, log`, or the choices."""
    if space.choices:
        return ", ".join(map(_shown, space.choices))
    return f"{space.low:g} to {space.high:g}" + ", log" * space.log


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _assignments(values: Any) -> str:
    return ", ".join(f"{key} = {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    """Return a setting as `--set` takes it, without spaces, which a shell would cut at."""
    return value_text(list(value) if isinstance(value, tuple) else value).replace(", ", ",")
