"""What several test modules share."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; before torch is imported, for their processes too

settings.register_profile("loaded machine", deadline=None)  # how long an example takes tells of the machine alone
settings.load_profile("loaded machine")

LONG = (
    "test_kill.py",
    "test_ray.py",
    "test_slurm.py",
    "test_cluster_page.py",
    "test_distributed.py",
    "test_every_method.py",
    "test_device.py",
    "test_golden_steps.py",
    "test_stranger.py",
    "test_main.py",
    "test_forgeries.py",
    "test_session.py",
    "test_failing_methods.py",
    "test_faults.py",
    "test_tracking.py",
    "test_store_upkeep.py",
    "test_own_network.py",
    "test_tune.py",
)
"""Files of few, long tests: begun first, so that no process is left with one while the others idle."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_sessionfinish():
    if lab := sys.modules.get("tests.cli_lab"):
        lab.stop_forking()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What the user's cache holds decides nothing, and the tests leave nothing in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@contextmanager
def forgotten():
    """What is registered meanwhile is forgotten at the end: which tests share a process must decide nothing."""
    from cakdbench import registry
    from cakdbench.data import datasets
    from cakdbench.models.catalog import MODELS
    from cakdbench.models.family import FAMILIES
    from cakdbench.utils.imports import FILE_MODULE

    registry.discover()
    tables = registry._methods, registry._aliases, MODELS, FAMILIES, datasets._own
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def as_installed():
    """What a module's fixtures register ends with the module."""
    with forgotten():
        yield


@pytest.fixture(autouse=True)
def as_the_module_has_it(as_installed):
    """What a test registers ends with the test."""
    with forgotten():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A data folder with the small dataset `timm:folder/tiny`."""
    from tests.cli_lab import make_folder

    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def shell(tiny, tmp_path, monkeypatch):
    """The command line, in a folder of its own."""
    from tests.cli_lab import Shell

    monkeypatch.chdir(tmp_path)
    return Shell(tiny, tmp_path)
