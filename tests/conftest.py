"""What several test modules share."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; before torch is imported, for their processes too


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A data folder with the small dataset `timm:folder/tiny`."""
    from cli_lab import make_folder

    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def shell(tiny, tmp_path, capsys, monkeypatch):
    """The command line, in a folder of its own."""
    from cli_lab import Shell

    from cakdbench import cli

    monkeypatch.chdir(tmp_path)
    for console in (cli.console, cli.errors):
        monkeypatch.setattr(console, "width", 220)
    return Shell(tiny, tmp_path, capsys)
