"""Commands that compute nothing import nothing that computes."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "accelerate", "scipy", "networkx", "pandas", "matplotlib"}
LIGHT = {
    "import cakdbench": "import cakdbench",
    "python -m cakdbench --help": "from cakdbench.cli.main import app; app(['--help'], standalone_mode=False)",
    "status": "from cakdbench.cli.main import app; app(['status', '--store', '.'], standalone_mode=False)",
    "records": "import cakdbench.records, cakdbench.store, cakdbench.labels, cakdbench.recipes",
}


def imported(code: str, folder) -> set[str]:
    """Return the top-level packages that are loaded after `code` has run in a process of its own."""
    report = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("name", LIGHT)
def test_nothing_heavy_is_imported(name, tmp_path):
    loaded = imported(LIGHT[name], tmp_path)
    assert "cakdbench" in loaded and not loaded & HEAVY


def test_heavy_imports_would_be_seen(tmp_path):
    assert {"torch", "timm"} <= imported("import cakdbench.models.staged", tmp_path)
