"""Follow the import statements of Python files to the files they mean, and load a file with what lies beside it."""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from cakdbench.utils.errors import UsageError, describe_error

FILE_MODULE = "cakdbench_file_"
"""The beginning of the names of the modules of loaded files; a hash of the folder keeps files of one name apart."""


def read_source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


@functools.lru_cache(maxsize=256)
def _import_names(source: str) -> tuple[tuple[int, str], ...]:
    """Return level (of dots) and name of every module that a source may import, in functions and by `import_module`.

    Of `from a import b` both `a` and `a.b`, which may be a module or not.
    """
    try:
        return tuple(name for node in ast.walk(ast.parse(source)) for name in _imports(node))
    except SyntaxError:
        return ()


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_packages(0, alias.name)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield from _with_packages(node.level, ".".join(filter(None, (node.module, alias.name))))
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            name = node.args[0].value.lstrip(".")
            yield from _with_packages(len(node.args[0].value) - len(name), name)


def _with_packages(level: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield a name and those before its dots: packages, whose code runs first."""
    parts = name.split(".")
    yield from ((level, ".".join(parts[:end])) for end in range(0 if level else 1, len(parts) + 1))


def local_imports(path: Path, name: str) -> dict[str, Path]:
    """Return the files that a file imports, and those that they import, by the names of their modules.

    Left out are Python's own modules, other installed distributions than the file's own, and cakdbench but for its
    methods.

    Args:
        name: of the file's module; for a file that `load_module` loads, modules beside it count.
    """
    beside = [path.parent] if name.startswith(FILE_MODULE) or name == "__main__" else []
    files, pending = {name: path}, [name]
    while pending:
        importer = pending.pop()
        for level, wanted in _import_names(read_source(files[importer])):
            found, file = _locate(level, wanted, importer, files[importer], beside)
            file = file and file.resolve()
            if file and found not in files and file not in files.values() and _counts(file, found, path, name):
                files[found] = file
                pending.append(found)
    return {found: file for found, file in files.items() if found != name}


def _locate(level: int, name: str, importer: str, path: Path, beside: list[Path]) -> tuple[str, Path | None]:
    """Return the full name of an imported module, and its file."""
    parts = name.split(".") if name else []
    if not level:
        return name, _find(parts, [*beside, *map(Path, sys.path)]) or _find_by_finders(parts)
    package, folder = importer if path.name == "__init__.py" else importer.rpartition(".")[0], path.parent
    for _ in range(level - 1):
        package, folder = package.rpartition(".")[0], folder.parent
    file = _find(parts, [folder]) if parts else folder / "__init__.py"
    found = ".".join(filter(None, (package, name)))
    return found, file if file and file.is_file() and not _is_synthetic(found) else None


def _is_synthetic(package: str) -> bool:
    """Return True for the package that the files of a folder are loaded into: it runs no `__init__.py`."""
    return package.startswith(FILE_MODULE) and "." not in package


def _find(parts: list[str], folders: Iterable[Path]) -> Path | None:
    """Return the file of the module `parts` under the first of `folders` that has its beginning."""
    first, *rest = parts
    spaces = []
    for folder in folders:
        package, module = folder / first / "__init__.py", folder / f"{first}.py"
        if package.is_file():
            return _find(rest, [package.parent]) if rest else package
        if module.is_file():
            return None if rest else module
        if (folder / first).is_dir():
            spaces.append(folder / first)
    return _find(rest, spaces) if rest and spaces else None


def _find_by_finders(parts: list[str]) -> Path | None:
    """Return the file of a module that other finders know, such as those of editable installs."""
    first, *rest = parts if parts[0] != "cakdbench" else [".".join(parts)]  # the methods lie in a folder of their own
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec and rest and spec.submodule_search_locations:
        return _find(rest, map(Path, spec.submodule_search_locations))
    return Path(spec.origin) if spec and not rest and spec.origin and spec.origin.endswith(".py") else None


def _counts(file: Path, name: str, root: Path, root_name: str) -> bool:
    """Return True if the code of a module is to be told apart: it is local, or of the distribution of `root_name`."""
    top = name.partition(".")[0]
    if top == "cakdbench":
        return name.startswith("cakdbench.methods.")
    if _is_installed(file):
        return _is_installed(root) and (
            top == root_name.partition(".")[0]
            or bool(_distributions(top) & _distributions(root_name.partition(".")[0]))
        )
    return not any(file.is_relative_to(sysconfig.get_path(place)) for place in ("stdlib", "platstdlib"))


def _is_installed(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _distributions(top: str) -> set[str]:
    return set(_packages().get(top, ()))


_packages = functools.cache(importlib.metadata.packages_distributions)


def load_module(path: Path, what: str) -> ModuleType:
    """Run a Python file as a module, anew at every call; it can import what lies beside it, by `from .` as well.

    Args:
        what: of the file, for messages: "method file".

    Raises:
        UsageError: there is no such file, it is none of Python, it raises, or another file has the name of a helper.
    """
    if not path.is_file():
        raise UsageError(f"no {what} at {path}")
    if path.suffix != ".py":
        raise UsageError(f"{path} is no Python file: give it a name that ends in .py")
    path = path.resolve()
    package = _package(path.parent)
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem.replace('.', '_')}", path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    sys.modules.setdefault(package, ModuleType(package)).__path__ = [str(path.parent)]
    _forget_helpers(path, spec.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, pickle and `source_hash` look a class's module up
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # two edits within a second look alike to its cache
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # other people's code, whatever it raises
        raise UsageError(f"the {what} {path} cannot be loaded: {describe_error(error, path)}") from error
    finally:
        sys.dont_write_bytecode = writes
    return module


class _Helper(NamedTuple):
    """A module that a loaded file imports, and the folder of that file."""

    file: Path
    owner: Path


_helpers: dict[str, _Helper] = {}
"""By name."""


class _HelperFinder:
    """Finds helpers where `local_imports` has found them, in functions too, whatever the path holds by then."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in _helpers:
            return importlib.util.spec_from_file_location(name, _helpers[name].file)
        if inside := [helper for helper in _helpers if helper.startswith(f"{name}.")]:  # a folder without __init__.py
            return _folder_spec(name, inside[0], _helpers[inside[0]].file)
        return None


def _folder_spec(name: str, helper: str, file: Path) -> ModuleSpec:
    """Return the spec of the folder `name`, in which a helper has its file."""
    spec = ModuleSpec(name, None, is_package=True)
    file = file.parent if file.name == "__init__.py" else file
    spec.submodule_search_locations = [str(file.parents[helper.count(".") - name.count(".") - 1])]
    return spec


def _forget_helpers(path: Path, name: str) -> None:
    """Let what a file imports be imported anew, since it may have been edited.

    Raises:
        UsageError: another file has the name of one of them.
    """
    if _HelperFinder not in sys.meta_path:
        sys.meta_path.insert(0, _HelperFinder)
    for helper, file in local_imports(path, name).items():
        known, loaded = _helpers.get(helper), sys.modules.get(helper)
        other = known.file if known else getattr(loaded, "__file__", None)
        if (loaded if known is None else _package(known.owner) in sys.modules) and Path(other or "").resolve() != file:
            raise UsageError(
                f"{path} imports {helper}, which is {file}, and {other} has this name by now: rename one of the "
                f"two, or write `from .{helper} import ...`"
            )
        if known or loaded is None:
            _helpers[helper] = _Helper(file, path.parent)
            _unload(helper)


def _unload(name: str) -> None:
    package, _, last = name.rpartition(".")
    sys.modules.pop(name, None)
    if hasattr(sys.modules.get(package), last):
        delattr(sys.modules[package], last)


def _package(folder: Path) -> str:
    """Return the name of the package that the files of a folder are loaded into."""
    return FILE_MODULE + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
