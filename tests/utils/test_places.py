"""Where data and teachers lie."""

import subprocess
import sys
from pathlib import Path

import pytest

from cakdbench.data.datasets import data_root
from cakdbench.utils.places import cache_path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without settings, who has cached nothing yet."""
    for name in ("XDG_CACHE_HOME", "CAKDBENCH_DATA", "CAKDBENCH_TEACHERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def default_teachers() -> Path:
    """Return the default of `--teacher-dir` in a new process, which reads the environment when it starts."""
    command = [sys.executable, "-c", "from cakdbench.cli.options import TEACHERS; print(TEACHERS)"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def test_one_variable_moves_data_and_teachers(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert data_root() == home / "elsewhere" / "cakdbench" / "data"
    assert default_teachers() == home / "elsewhere" / "cakdbench" / "teachers"


def test_what_lies_at_the_earlier_place_is_found_until_there_is_something_at_the_new(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    earlier = home / ".cache" / "cakdbench" / "data"
    earlier.mkdir(parents=True)
    assert data_root() == earlier
    assert cache_path("teachers") == home / "elsewhere" / "cakdbench" / "teachers"
    new = home / "elsewhere" / "cakdbench" / "data"
    new.mkdir(parents=True)
    assert data_root() == new


def test_what_the_user_names_wins(home, monkeypatch):
    (home / ".cache" / "cakdbench" / "data").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("CAKDBENCH_DATA", str(home / "mine"))
    assert data_root() == home / "mine"
    assert data_root(home / "given") == home / "given"


def test_what_is_new_has_no_earlier_place(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    for name in ("peaks", "data"):
        (home / ".cache" / "cakdbench" / name).mkdir(parents=True)
    assert cache_path("peaks") == home / "elsewhere" / "cakdbench" / "peaks"
    assert cache_path("data") == home / ".cache" / "cakdbench" / "data"
