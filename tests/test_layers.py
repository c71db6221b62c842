"""Imports run one way (names, plan, groups, trainer, records, table, pages): no wing imports from one above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (  # the top first; what stands in one line may import from each other
    ("cli", "__main__"),
    ("api", "training", "__init__"),
    ("analysis",),
    ("reports",),
    ("results",),
    ("engine", "submissions", "checks", "costs", "students"),
    ("train", "grid", "methods"),
    ("store", "build", "registry", "source_hash", "method"),
    ("data", "records", "published"),
    ("recipes", "labels", "models"),
    ("pairs", "utils"),
)
HEIGHT = {name: height for height, names in enumerate(reversed(LAYERS)) for name in names}


def modules():
    for folder, prefix in ((ROOT / "cakdbench", ""), (ROOT / "methods", "methods.")):
        for path in folder.rglob("*.py"):
            yield prefix + ".".join(path.relative_to(folder).with_suffix("").parts), path


def imports(path):
    """Return what a file imports of the package, inside of functions too; imports for type checkers are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        id(n) for branch in ast.walk(tree) if _for_types(branch) for part in branch.body for n in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cakdbench":
            own = node.module.split(".")[1:]
            yield from [".".join([*own, alias.name]) for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.partition(".")[2] for a in node.names if a.name.startswith("cakdbench.")]


def _for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize(
    ("module", "path"), sorted(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_import_runs_back_up(module, path):
    wing = module.split(".")[0]
    above = [name for name in imports(path) if HEIGHT.get(name.split(".")[0], 0) > HEIGHT[wing]]
    assert above == []


@pytest.mark.parametrize(
    ("module", "path"), sorted(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_are_written_from_the_top(module, path):
    """A relative or a computed import could run back up unseen; those that are computed find methods by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    computed = [n for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute) and _name(n) in COMPUTED]
    assert not computed or module in ("registry", "__init__", "engine.launch.worker")


COMPUTED = ("import_module", "__import__", "run_module")


def _name(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id


def test_every_wing_has_its_place():
    wings = {module.split(".")[0] for module, _ in modules()}
    assert wings <= HEIGHT.keys()


def test_an_import_back_up_is_seen(tmp_path):
    (tmp_path / "low.py").write_text("def f():\n    from cakdbench.reports import board\n")
    assert list(imports(tmp_path / "low.py")) == ["reports.board"]
