"""The method registry: how a class becomes a name on the command line."""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter

from cakdbench.errors import UsageError, unknown
from cakdbench.method import TEACHER_PARTS, Method
from cakdbench.models.staged import ModelInfo

_methods: dict[str, type[Method]] = {}
_aliases: dict[str, str] = {}


def register(id: str, *, title: str, paper: str, url: str, aliases: tuple[str, ...] = ()):
    """Class decorator that enters a Method under `id`; a taken id or alias is an error."""

    def enter(cls: type[Method]) -> type[Method]:
        for name in (id, *aliases):
            holder = _methods.get(_aliases.get(name, name))
            if holder and (holder.__module__, holder.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UsageError(f"method id {name!r} is taken by {holder.__module__}.{holder.__qualname__}")
        if not cls.needs <= TEACHER_PARTS:
            strange, known = ", ".join(sorted(cls.needs - TEACHER_PARTS)), ", ".join(sorted(TEACHER_PARTS))
            raise UsageError(f"method {id!r} needs {strange} of the teacher; what it can give is {known}")
        cls.id, cls.title, cls.paper, cls.url = id, title, paper, url
        _methods[id] = cls
        _aliases.update(dict.fromkeys(aliases, id))
        return cls

    return enter


@functools.cache
def discover() -> None:
    """Import every built-in method and every one that an installed package offers."""
    package = importlib.import_module("cakdbench.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"cakdbench.methods.{module.name}")
    for entry in importlib.metadata.entry_points(group="cakdbench.methods"):
        try:
            entry.load()
        except Exception as error:  # other people's code, whatever it raises
            raise UsageError(f"the method package {entry.value} cannot be loaded: {error!r}") from error


def load_file(path: Path) -> None:
    """Register the methods defined in a Python file (`--method-file`)."""
    if not path.is_file():
        raise UsageError(f"no method file at {path}")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"cakdbench_file_{path.stem}_{place}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:  # other people's code, whatever it raises
        raise UsageError(f"the method file {path} cannot be loaded: {error!r}") from error


def method_ids() -> list[str]:
    discover()
    return sorted(_methods)


def get_method(name: str) -> type[Method]:
    """The Method registered under an id or alias."""
    discover()
    id = _aliases.get(name, name)
    if id not in _methods:
        raise unknown("method", name, [*_methods, *_aliases])
    return _methods[id]


def split_variant(name: str) -> tuple[type[Method], str | None]:
    """`fbt:no_infonce` -> (FBT, "no_infonce"); an unknown method or variant is an error."""
    base, _, variant = name.partition(":")
    method = get_method(base)
    if variant and variant not in method.variants:
        raise unknown(f"variant of {method.id}", variant, method.variants)
    return method, variant or None


def resolve_config(
    method: type[Method],
    variant: str | None,
    teacher: ModelInfo,
    student: ModelInfo,
    dataset: str,
    overrides: dict[str, Any] | None = None,
) -> Method.Config:
    """The method's numbers for one pair: defaults, then settings that match it, the variant, the overrides."""
    facts = {"dataset": dataset, "teacher_kind": teacher.kind, "student_kind": student.kind}
    values: dict[str, Any] = {}
    for setting in method.settings:
        if all(facts[key] == wanted for key, wanted in setting.where.items()):
            values.update(setting.values)
    values.update(method.variants[variant] if variant else {})
    values.update(overrides or {})
    known = [field.name for field in fields(method.Config)]
    for key in values:
        if key not in known:
            raise unknown(f"setting of {method.id}", key, known)
    try:
        return TypeAdapter(method.Config).validate_python(values)
    except ValueError as error:
        raise UsageError(f"setting of {method.id}: {error}") from error


def source_hash(method: type[Method]) -> str:
    """sha256 over the source of the method's file and of the modules of its package that it imports from."""
    texts = {m.__name__: inspect.getsource(m) for m in _source_modules(sys.modules[method.__module__])}
    return hashlib.sha256("\0".join(texts[name] for name in sorted(texts)).encode()).hexdigest()


def _source_modules(module: ModuleType, seen: set[str] | None = None) -> list[ModuleType]:
    seen = {module.__name__} if seen is None else seen
    found = [module]
    ours = module.__name__.startswith("cakdbench.")
    package = "cakdbench.methods." if ours else module.__name__.partition(".")[0] + "."
    for value in vars(module).values():
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or ""
        if home.startswith(package) and home not in seen:
            seen.add(home)
            found += _source_modules(sys.modules[home], seen)
    return found
