"""A method in a package of its own: installed beside cakdbench, it is checked and run like any other."""

import subprocess
import sys
from pathlib import Path

import pytest

from cakdbench.store import Store
from tests.cli_lab import Program, Shell

PACKAGE = Path(__file__).with_name("stranger")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that pip has installed the package into."""
    folder, copy = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("package")
    for path in PACKAGE.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder), str(copy)], check=True, timeout=120)
    return folder


def test_the_method_is_at_most_40_lines_long():
    assert len((PACKAGE / "stranger_kd.py").read_text().splitlines()) <= 40


def test_the_method_passes_all_checks(site):
    code, output = Program("check", "stranger", site=site).finish()
    assert code == 0 and "FAILED" not in output, output
    assert "two processes as one" in output


def test_the_method_runs_and_stands_on_the_board(site, tiny, tmp_path):
    shell = Shell(tiny, tmp_path)
    command = shell.command("--methods", "stranger,stranger[weight=0.5]")
    code, output = Program(*command, site=site).finish()
    assert code == 0, output
    found = {r.label for r in Store(shell.store).records()[0] if r.recipe_name == "demo"}
    assert found == {"scratch", "kd", "stranger", "stranger[weight=0.5]"}
    assert "stranger[weight=0.5]" in output
