"""Built-in methods and the engine compute what their versions say."""

import pytest

from cakdbench.records import ENGINE_VERSION
from cakdbench.registry import get_method

from .engine import run_all
from .files import ENGINE, FOLDER, Golden, complaint, read
from .steps import DIRECTIONS, built_in, on, steps_on, version_of


@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
@pytest.mark.parametrize("method_id", built_in())
def test_a_method_computes_what_its_version_says(method_id, direction):
    golden = read(method_id)
    kept = golden and Golden(golden.version, on(direction, golden.steps))
    method = get_method(method_id)
    reason = complaint(method_id, version_of(method), kept, steps_on(method, direction))
    assert reason is None, reason


def test_the_engine_computes_what_its_version_says():
    reason = complaint(ENGINE, ENGINE_VERSION, read(ENGINE), run_all())
    assert reason is None, reason


def test_every_file_is_of_a_method_or_the_engine():
    kept = {path.stem for path in FOLDER.iterdir()}
    assert kept == {*built_in(), ENGINE}, "delete the files of methods that are gone"
