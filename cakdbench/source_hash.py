"""The hash of a method's code, part of its runs' keys."""

import ast
import functools
import hashlib
import inspect
import io
import sys
import tokenize
from types import ModuleType

from cakdbench.method import Method


def source_hash(method: type[Method]) -> str:
    """sha256 over the code of the method's file and of the modules of its package that it imports from.

    Docstrings, comments and blank lines, which cannot change a result, are no part of it.
    """
    codes = {m.__name__: bare(inspect.getsource(m)) for m in _source_modules(sys.modules[method.__module__])}
    return hashlib.sha256("\0".join(codes[name] for name in sorted(codes)).encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def bare(source: str) -> str:
    """Python source without docstrings, comments and blank lines; the same text in every version of Python."""
    lines = [line.encode() for line in io.StringIO(source)]
    cuts, kept = _comments(source, lines), set()
    for node in ast.walk(ast.parse(source)):
        if _is_docstring(first := next(iter(_body(node)), None)):
            cuts.append(((first.lineno, first.col_offset), (first.end_lineno, first.end_col_offset)))
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            kept |= set(range(node.lineno, node.end_lineno))  # lines that end inside of a string
    for (first, start), (last, end) in sorted(cuts, reverse=True):
        kept -= set(range(first, last))
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:], *[b""] * (last - first)]
    texts = (line.decode().rstrip("\n") if row in kept else line.decode().rstrip() for row, line in enumerate(lines, 1))
    return "\n".join(text for row, text in enumerate(texts, 1) if text or row in kept)


def _comments(source: str, lines: list[bytes]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where comments start and end: rows from 1, columns in bytes."""
    found = [t.start for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
    places = [(row, len(lines[row - 1].decode()[:column].encode())) for row, column in found]
    return [((row, column), (row, len(lines[row - 1]))) for row, column in places]


def _body(node: ast.AST) -> list[ast.stmt]:
    held = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return node.body if held else []


def _is_docstring(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _source_modules(module: ModuleType, seen: set[str] | None = None) -> list[ModuleType]:
    seen = {module.__name__} if seen is None else seen
    found = [module]
    ours = module.__name__.startswith("cakdbench.")
    packages = ("cakdbench.methods.",) if ours else ("cakdbench.methods.", module.__name__.partition(".")[0] + ".")
    for value in vars(module).values():
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or ""
        if home.startswith(packages) and home not in seen:
            seen.add(home)
            found += _source_modules(sys.modules[home], seen)
    return found
