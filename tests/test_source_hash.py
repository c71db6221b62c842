"""What changes the hash of an outside method: every edit of local code, however it is imported, and no other."""

import functools
import importlib.metadata
import sys
from pathlib import Path

import pytest

from cakdbench import registry
from cakdbench.registry import get_method, load_file
from cakdbench.source_hash import bare, source_hash
from cakdbench.utils import imports
from cakdbench.utils.errors import UsageError
from cakdbench.utils.imports import FILE_MODULE, local_imports, read_source

METHOD = """
{imports}
from cakdbench.method import Method
from cakdbench.registry import register

@register("mine", title="", paper="", url="")
class Mine(Method):
    def distill_step(self, batch):
        return {use}
"""
HELPER = '"""Numbers."""\nALPHA = 0.5\nTABLE = {"a": 1}\n\ndef f():\n    return ALPHA\n'
IMPORTS = {
    "a constant": ("from helper import ALPHA", "ALPHA"),
    "a dict": ("from helper import TABLE", "TABLE['a']"),
    "a function": ("from helper import f", "f()"),
    "everything": ("from helper import *", "f()"),
    "a module": ("import helper", "helper.f()"),
    "a module of a folder": ("import pkg.helper", "pkg.helper.f()"),
    "from a folder": ("from pkg import helper as h", "h.f()"),
    "of a folder without __init__.py": ("from bare.helper import f", "f()"),
    "of a package in one": ("import bare.deep.inner", "bare.deep.inner.f()"),
    "relative": ("from .helper import ALPHA", "ALPHA"),
    "a relative module": ("from . import helper", "helper.f()"),
    "relative, in a folder": ("from .pkg.helper import f", "f()"),
    "by another module": ("from between import f", "f()"),
    "by another module, relative": ("from pkg.between import f", "f()"),
    "in a function": ("", "__import__('helper').f()"),
    "by name": ("import importlib\nhelper = importlib.import_module('helper')", "helper.f()"),
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(params=IMPORTS)
def project(request, tmp_path):
    """A method file, and its helper in both places where it may lie."""
    imports, use = IMPORTS[request.param]
    places = {"pkg": "pkg/helper.py", "deep": "bare/deep/inner/__init__.py", "bare": "bare/helper.py"}
    helper = next((place for name, place in places.items() if name in imports), "helper.py")
    write(tmp_path, helper, HELPER)
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/between.py", "from .helper import f\n")
    write(tmp_path, "between.py", "from helper import f\n")
    write(tmp_path, "mine.py", METHOD.format(imports=imports, use=use))
    return tmp_path, tmp_path / helper


def loaded(folder: Path) -> tuple[str, object]:
    """The hash, and what the code computes."""
    load_file(folder / "mine.py")
    method = get_method("mine")
    return source_hash(method), method.distill_step(None, None)


def test_an_edited_helper_is_run_and_hashed_and_its_words_are_not(project):
    folder, helper = project
    before = loaded(folder)
    assert loaded(folder) == before
    helper.write_text("# told\n" + HELPER.replace("Numbers.", "In other words.") + "\n")
    assert loaded(folder) == before
    helper.write_text(HELPER.replace("0.5", "0.25").replace("1}", "2}"))
    after = loaded(folder)
    assert after[0] != before[0] and after[1] != before[1]


def test_code_that_is_not_imported_does_not_count(project):
    folder, _ = project
    before = loaded(folder)
    write(folder, "unrelated.py", "x = 1\n")
    write(folder, "test_mine.py", "import mine\n")
    assert loaded(folder) == before


def test_the_hash_is_the_same_in_another_folder(project, tmp_path_factory):
    folder, _ = project
    copy = tmp_path_factory.mktemp("copy")
    for path in folder.rglob("*.py"):
        write(copy, str(path.relative_to(folder)), path.read_text())
    before = loaded(folder)[0]
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        del sys.modules[name]
    registry._methods.pop("mine")
    assert loaded(copy)[0] == before


def test_a_module_constant_of_the_file_counts(tmp_path):
    text = METHOD.format(imports="WEIGHT = 3", use="WEIGHT")
    write(tmp_path, "mine.py", text)
    before = loaded(tmp_path)
    write(tmp_path, "mine.py", text.replace("3", "4"))
    assert loaded(tmp_path)[0] != before[0]


def test_helpers_of_one_name_in_two_folders_are_refused_unless_they_are_relative(tmp_path):
    for folder in "ab":
        text = METHOD.format(imports="from helper import ALPHA", use="ALPHA").replace('"mine"', f'"mine_{folder}"')
        write(tmp_path / folder, "mine.py", text)
        write(tmp_path / folder, "helper.py", HELPER)
    load_file(tmp_path / "a/mine.py")
    with pytest.raises(UsageError, match=r"b/mine.py imports helper.*a/helper.py.*rename.*from \.helper import"):
        load_file(tmp_path / "b/mine.py")
    write(tmp_path / "b", "mine.py", (tmp_path / "b/mine.py").read_text().replace("from helper", "from .helper"))
    assert load_file(tmp_path / "b/mine.py") == ["mine_b"]


def test_of_installed_packages_those_of_the_method_s_distribution_count(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    for package in ("own", "own_more", "strange"):
        write(site, f"{package}/__init__.py", "")
        write(site, f"{package}/h.py", HELPER)
    lines = "import own.h\nfrom own_more.h import TABLE\nimport strange.h"
    write(site, "own/methods.py", METHOD.format(imports=lines, use="own.h.f()"))
    for dist, tops in (("own", "own\nown_more\n"), ("strange", "strange\n")):
        write(site, f"{dist}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1\n")
        write(site, f"{dist}-1.dist-info/top_level.txt", tops)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(imports, "_packages", functools.cache(importlib.metadata.packages_distributions))

    def hashed() -> list[str]:
        return sorted(map(bare, map(read_source, local_imports(site / "own/methods.py", "own.methods").values())))

    before = hashed()
    for edited, seen in (("own/h.py", True), ("own_more/h.py", True), ("strange/h.py", False)):
        write(site, edited, HELPER.replace("0.5", "0.25"))
        assert (hashed() != before) is seen
        before = hashed()
