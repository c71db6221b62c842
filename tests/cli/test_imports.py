"""Commands that compute nothing import nothing that computes."""

import subprocess
import sys
from pathlib import Path

import pytest


def _command(*arguments: str) -> str:
    return f"from cakdbench.cli.main import app; app({list(arguments)}, standalone_mode=False)"


HEAVY = {"torch", "torchvision", "timm", "accelerate", "scipy", "networkx", "pandas", "matplotlib"}
RESULTS = Path(__file__).parents[2] / "leaderboards" / "results"
LIGHT = {
    "import cakdbench": "import cakdbench",
    "python -m cakdbench --help": _command("--help"),
    "status": _command("status", "--store", "."),
    "diff": _command("diff", "ofa_cifar_cnn", "ofa/cifar100/cnn"),
    "migrate": _command("migrate", str(RESULTS)),
    "records": "import cakdbench.records, cakdbench.store, cakdbench.labels, cakdbench.recipes",
}
ALLOWED = {"diff": {"pandas"}}


def imported(code: str, folder) -> set[str]:
    """Return the top-level packages that are loaded after `code` has run in a process of its own."""
    report = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("name", LIGHT)
def test_nothing_heavy_is_imported(name, tmp_path):
    loaded = imported(LIGHT[name], tmp_path)
    assert "cakdbench" in loaded and not loaded & HEAVY - ALLOWED.get(name, set())


def test_heavy_imports_would_be_seen(tmp_path):
    assert {"torch", "timm"} <= imported("import cakdbench.models.staged", tmp_path)
