"""`import cakdbench` is quick, and what it offers is there."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import cakdbench

HEAVY = ("torch", "pandas", "numpy", "timm", "scipy", "pydantic", "matplotlib")


def test_import_loads_nothing_heavy():
    code = f"import sys, cakdbench; cakdbench.__version__; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_published_numbers_and_records_need_no_torch():
    code = (
        "import sys, cakdbench; cakdbench.load_published; import cakdbench.results.load; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", sorted(set(cakdbench.__all__) - {"__version__"}))
def test_public_names_are_documented_functions_that_no_module_shadows(name):
    assert callable(getattr(cakdbench, name)) and name in dir(cakdbench)
    assert len(inspect.getdoc(getattr(cakdbench, name)).splitlines()) > 3
    for module in pkgutil.iter_modules(cakdbench.__path__):
        assert module.name != name
    importlib.import_module("cakdbench.results.compare")
    assert inspect.isfunction(getattr(cakdbench, name))


def test_other_names_are_told():
    with pytest.raises(AttributeError, match="'cakdbench' has no attribute 'load_result'"):
        cakdbench.load_result  # noqa: B018
