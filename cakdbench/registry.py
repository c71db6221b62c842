"""The method registry: how a class becomes a name on the command line."""

import functools
import importlib
import importlib.metadata
import json
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

import timm
from pydantic import TypeAdapter, ValidationError

from cakdbench import labels
from cakdbench.data.holdout import whole_name
from cakdbench.method import KINDS, TEACHER_PARTS, Method
from cakdbench.models.catalog import MODELS, TIMM
from cakdbench.models.staged import describe
from cakdbench.utils.errors import RAISED, UsageError, unknown
from cakdbench.utils.imports import load_module
from cakdbench.utils.neutral import fill_neutral, strip_neutral
from cakdbench.utils.toml import problems

M = TypeVar("M", bound=Method)


class Kinded(Protocol):
    """What settings hang on of a network: `ModelInfo` and more."""

    @property
    def kind(self) -> str: ...


_methods: dict[str, type[Method]] = {}
_aliases: dict[str, str] = {}


def register(
    id: str,
    *,
    title: str,
    paper: str,
    url: str,
    year: int | None = None,
    kind: str = "logits",
    aliases: tuple[str, ...] = (),
    version: int = 1,
) -> Callable[[type[M]], type[M]]:
    """Enter a Method under `id`, as a class decorator; a taken id or alias is an error.

    Args:
        kind: one of `cakdbench.method.KINDS`.
        version: of what a built-in method computes: raise it with every change that can change a result. It is part of
            its runs' keys; those of other methods have the hash of their source instead.
    """

    def enter(cls: type[M]) -> type[M]:
        for name in (id, *aliases):
            if problem := labels.id_problem(name):
                raise UsageError(f"method id {name!r}: {problem}")
            if twin := next((other for other in (*_methods, *_aliases) if other != name and _alike(other, name)), None):
                raise UsageError(f"method id {name!r} differs from {twin!r} in capital letters only: choose another")
            holder = _methods.get(_aliases.get(name, name))
            if holder and (holder.__module__, holder.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UsageError(
                    f"method id {name!r} is taken by {holder.__module__}.{holder.__qualname__}: choose another"
                )
        if not cls.needs <= TEACHER_PARTS:
            strange, known = ", ".join(sorted(cls.needs - TEACHER_PARTS)), ", ".join(sorted(TEACHER_PARTS))
            raise UsageError(f"method {id!r} needs {strange} of the teacher; what it can give is {known}")
        if cls.several_teachers == "logits" and cls.needs != {"logits"}:
            raise UsageError(f"method {id!r} needs more than logits: several_teachers = 'logits' is not for it")
        if kind not in KINDS:
            raise unknown(f"kind of {id}", kind, KINDS)
        cls.id = id
        cls.title = title
        cls.paper = paper
        cls.url = url
        cls.year = year
        cls.kind = kind
        cls.aliases = aliases
        cls.version = version
        _methods[id] = cls
        _aliases.update(dict.fromkeys(aliases, id))
        return cls

    return enter


def _alike(one: str, other: str) -> bool:
    return one.lower() == other.lower()


@functools.cache
def discover() -> None:
    """Import every built-in method and every one that an installed package offers."""
    package = importlib.import_module("cakdbench.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"cakdbench.methods.{module.name}")
    for entry in importlib.metadata.entry_points(group="cakdbench.methods"):
        try:
            entry.load()
        except RAISED as error:  # other people's code, whatever it raises
            raise UsageError(f"the method package {entry.value} cannot be loaded: {error!r}") from error


def load_any(path: Path, what: str = "file") -> tuple[list[str], list[str]]:
    """Run a Python file; return the ids of the methods it registers, and the names of the networks."""
    name = load_module(path, what).__name__
    describe.cache_clear()  # a network may have been edited
    methods = [id for id, method in _methods.items() if method.__module__ == name]
    models = [id for id, entry in MODELS.items() if entry.module == name]
    of_timm = [id for id in timm.list_models() if timm.models.model_entrypoint(id).__module__ == name]
    return methods, [*models, *(f"{TIMM}{id}" for id in of_timm)]


def load_file(path: Path) -> list[str]:
    """Register the methods defined in a Python file (`--method-file`); return their ids."""
    ids, _ = load_any(path, "method file")
    if not ids:
        raise UsageError(
            f"{path} registers no method: decorate its class with @register(...); networks go by --model-file"
        )
    return ids


def load_models(path: Path) -> list[str]:
    """Register the networks of a Python file (`--model-file`), our way or timm's; return their names."""
    _, ids = load_any(path, "model file")
    if not ids:
        raise UsageError(
            f"{path} registers no network: decorate the class or function that makes it, @register_model(ID); "
            "methods go by --method-file"
        )
    return ids


def load_files(method_files: Iterable[Path] = (), model_files: Iterable[Path] = ()) -> None:
    """Register what Python files hold: networks and methods."""
    for path in model_files:
        load_models(path)
    for path in method_files:
        load_file(path)


def method_ids() -> list[str]:
    discover()
    return sorted(_methods)


def methods_in_order() -> list[type[Method]]:
    """Return the registered methods by kind, then year, then id."""
    return sorted(map(get_method, method_ids()), key=lambda m: (KINDS.index(m.kind), m.year or 0, m.id))


def setting_docs(config: type[Method.Config]) -> dict[str, str]:
    """Return the explanations of the settings under `Attributes:` in a Config's docstring."""
    known = {field.name for field in fields(config)}
    docs: dict[str, str] = {}
    name = None
    _, _, documented = (config.__doc__ or "").partition("Attributes:")
    for line in map(str.strip, documented.splitlines()):
        head, colon, text = line.partition(": ")
        if colon and head in known:
            name, line = head, text
        if name:
            docs[name] = f"{docs.get(name, '')} {line}".strip()
    return docs


def methods_named(names: str) -> list[str]:
    """Return the labels in a list of names separated by commas; `all` stands for every registered method."""
    return [label for name in labels.expand(names) for label in (method_ids() if name == "all" else [name])]


def taken(name: str) -> bool:
    """Return True if a method or an alias has this name."""
    discover()
    return name in _methods or name in _aliases


def get_method(name: str) -> type[Method]:
    """Return the Method registered under an id or alias."""
    discover()
    id = _aliases.get(name, name)
    if id not in _methods:
        raise unknown("method", name, [*_methods, *_aliases], "methods of your own: --method-file FILE")
    return _methods[id]


def method_of_record(id: str) -> type[Method] | None:
    """Return the Method registered under exactly this id, as records name it; None if there is none.

    Raises:
        UsageError: the id is another spelling of a registered one: an alias, or other capital letters.
    """
    discover()
    if id in _methods:
        return _methods[id]
    for name, own in {**dict(zip(_methods, _methods)), **_aliases}.items():
        if _alike(name, id):
            raise UsageError(f"{id} is another name of {own}: a record has the id {own}")
    return None


def split_variant(name: str) -> tuple[type[Method], str | None]:
    """`fbt:no_infonce` -> (FBT, "no_infonce"), `ofa[gamma=1.5]` -> (OFA, "[gamma=1.5]"); unknown names are errors."""
    base, variant = labels.split(name)
    method = get_method(base)
    named = labels.split(variant or "")[0]
    if named and named not in method.variants:
        raise unknown(f"variant of {method.id}", named, method.variants)
    return method, variant


def variant_values(method: type[Method], variant: str | None) -> dict[str, Any]:
    """Return the Config values a variant stands for: of the named one, then those in its brackets."""
    named = labels.split(variant or "")[0]
    return dict(method.variants[named] if named else {}) | labels.changes(variant or "")


def resolve_config(
    method: type[Method],
    variant: str | None,
    teacher: Kinded,
    student: Kinded,
    dataset: str,
    overrides: dict[str, Any] | None = None,
) -> Method.Config:
    """Return the method's numbers for one pair: defaults, then settings that match it, the variant, the overrides.

    Raises:
        UsageError: an unknown setting (the nearest are given), or a value that it cannot have.
    """
    facts = {"dataset": whole_name(dataset), "teacher_kind": teacher.kind, "student_kind": student.kind}
    values: dict[str, Any] = {}
    for setting in method.settings:
        if all(facts[key] == value for key, value in setting.where.items()):
            values.update(setting.values)
    values.update(variant_values(method, variant))
    values.update(overrides or {})
    return _read_config(method, values)


def _read_config(method: type[Method], values: dict[str, Any]) -> Method.Config:
    """Return settings as a Config; a number may have no decimals, and `none` stands for None, but no type changes."""
    known, hints = [field.name for field in fields(method.Config)], get_type_hints(method.Config)
    for key, value in values.items():
        if key not in known:
            raise unknown(f"setting of {method.id}", key, known)
        if value == "none" and NoneType in get_args(hints[key]):
            values = values | {key: None}
        if not _finite(value):
            raise UsageError(f"setting of {method.id}: {key}: must be finite (given: {value})")
    try:
        # JSON is the strict mode that takes arrays for tuples and 1 for 1.0, as TOML writers expect.
        return _reader(method.Config).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UsageError(f"setting of {method.id}: {problems(error)}") from error


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def config_identity(config: Method.Config) -> dict[str, Any]:
    """Return a method's settings as a run's key holds them: JSON values, without those that are neutral."""
    return strip_neutral(type(config), json.loads(json.dumps(asdict(config))))


def all_settings(method: type[Method], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, those that `config_identity` left out included."""
    return fill_neutral(method.Config, identity)


def canonical_label(method: type[Method], config: Method.Config, teacher: Kinded, student: Kinded, dataset: str) -> str:
    """Return the one name of a method's settings on a pair: `ofa`, not `ofa[gamma=1]` where gamma is 1 anyway.

    It is the method's id, the first variant with these settings, or the one that is nearest to them, with what differs
    from it in brackets.
    """
    names = (None, *method.variants)
    nearest: dict[str | None, dict[str, Any]] = {}
    own = {key: value or 0.0 if isinstance(value, float) else value for key, value in asdict(config).items()}  # no -0.0
    for name in names:
        values = asdict(resolve_config(method, name, teacher, student, dataset))
        nearest[name] = {key: own[key] for key in own if repr(own[key]) != repr(values[key])}  # NaN is not itself
    name = min(names, key=lambda name: len(nearest[name]))
    return labels.label(method.id, labels.with_changes(name, nearest[name]))


@functools.cache
def _reader(config: type[Method.Config]) -> TypeAdapter:
    return TypeAdapter(config)
