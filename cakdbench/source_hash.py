"""A method's code in a run's key: the version of a built-in method, the hash of another's source.

A built-in method's version is raised by hand when what it computes changes, and golden training steps see to it that it
is; so a function of it can be renamed without voiding a result. Other people's methods have no such guard.
"""

import ast
import functools
import hashlib
import inspect
import io
import sys
import tokenize
import tomllib
from importlib.resources import files as resources
from pathlib import Path
from types import ModuleType

from cakdbench.method import Method
from cakdbench.models.catalog import entry
from cakdbench.records import MethodIdentity
from cakdbench.registry import config_identity
from cakdbench.utils.errors import UsageError
from cakdbench.utils.imports import local_imports, read_source

BUILT_IN = "cakdbench.methods."
Span = tuple[tuple[int, int], tuple[int, int]]
"""Two positions in a source, as (row, column)."""


def is_built_in(method: type[Method]) -> bool:
    """Tell whether a method comes with cakdbench, so that its version stands for its code."""
    return method.__module__.startswith(BUILT_IN)


def method_identity(method: type[Method], config: Method.Config) -> MethodIdentity:
    """Return what a run's key holds of a method and its settings."""
    settings = config_identity(config)
    if is_built_in(method):
        return MethodIdentity(id=method.id, version=method.version, config=settings)
    return MethodIdentity(id=method.id, source=source_hash(method), config=settings)


@functools.cache
def known_sources(id: str, version: int) -> frozenset[str]:
    """Return the source hashes this repository has had for a version of a built-in method, before today's."""
    table = tomllib.loads(resources("cakdbench.methods").joinpath("versions.toml").read_text(encoding="utf-8"))
    return frozenset(table.get(id, {}).get(str(version), ()))


def source_hash(method: type[Method], by_version: bool | None = None) -> str:
    """Return the sha256 over the code of the method's file and of those that it imports, see `module_hash`.

    Args:
        by_version: let the version of a built-in method that it imports from count, and not its code; default: for
            methods that are not built in themselves.
    """
    return module_hash(method.__module__, not is_built_in(method) if by_version is None else by_version)


def model_source(name: str) -> str | None:
    """Return the sha256 over the code of a network of one's own; None for those of cakdbench and timm."""
    module = entry(name).module
    return module_hash(module) if module else None


def module_hash(name: str, by_version: bool = True) -> str:
    """Return the sha256 over the code of a loaded module and of the local files that it imports.

    Docstrings, comments and blank lines, which cannot change a result, are no part of it. Nor is what other installed
    distributions hold.

    Args:
        by_version: let the versions of built-in methods count, and not their code.
    """
    try:
        path = Path(inspect.getfile(sys.modules[name]))
    except TypeError:
        raise UsageError(f"code typed at a prompt ({name}) has no hash: write it into a file") from None
    files = local_imports(path, name)
    codes = sorted((file.stem, _code(module, file, by_version)) for module, file in files.items())
    return hashlib.sha256("\0".join([bare(read_source(path)), *(code for _, code in codes)]).encode()).hexdigest()


def _code(name: str, file: Path, by_version: bool) -> str:
    if by_version and name.startswith(BUILT_IN) and (versions := _versions(sys.modules[name])):
        return ", ".join(versions)
    return bare(read_source(file))


def _versions(module: ModuleType) -> list[str]:
    """Return the built-in methods of a module with their versions."""
    methods = [thing for thing in vars(module).values() if inspect.isclass(thing) and issubclass(thing, Method)]
    own = [method for method in methods if is_built_in(method) and method.__module__ == module.__name__]
    return sorted(f"{method.id} version {method.version}" for method in own if "version" in vars(method))


@functools.lru_cache(maxsize=256)
def bare(source: str) -> str:
    """Python source without docstrings, comments and blank lines; the same text in every version of Python."""
    lines = [line.encode() for line in io.StringIO(source)]
    cuts = _comments(source, lines)
    kept: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        statement = next(iter(_body(node)), None)
        if statement and _is_docstring(statement):
            cuts.append(_span(statement))
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            (first, _), (last, _) = _span(node)
            kept |= set(range(first, last))  # lines that end inside of a string
    for (first, start), (last, end) in sorted(cuts, reverse=True):
        kept -= set(range(first, last))
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:], *[b""] * (last - first)]
    texts = (line.decode().rstrip("\n") if row in kept else line.decode().rstrip() for row, line in enumerate(lines, 1))
    return "\n".join(text for row, text in enumerate(texts, 1) if text or row in kept)


def _span(node: ast.stmt | ast.expr) -> Span:
    """Return the start and end of a node: rows from 1, columns in bytes."""
    assert node.end_lineno is not None and node.end_col_offset is not None  # `ast.parse` sets them always
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _comments(source: str, lines: list[bytes]) -> list[Span]:
    """Return the start and end of every comment: rows from 1, columns in bytes."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans: list[Span] = []
    for row, column in (token.start for token in tokens if token.type == tokenize.COMMENT):
        start = len(lines[row - 1].decode()[:column].encode())
        spans.append(((row, start), (row, len(lines[row - 1]))))
    return spans


def _body(node: ast.AST) -> list[ast.stmt]:
    return node.body if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else []


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
