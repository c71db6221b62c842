"""Built-in methods compute what their versions say."""

import pytest
import torch
from packaging.version import Version

from cakdbench.registry import get_method

from .files import FOLDER, Golden, complaint, read
from .steps import DIRECTIONS, built_in, on, steps_on, version_of

DRAWN_OTHERWISE = {"pcagl": Version("2.14")}
"""Methods whose values another torch changes, 0.1 % with 2.6: the first version they are known to hold with."""


@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
@pytest.mark.parametrize("method_id", built_in())
def test_a_method_computes_what_its_version_says(method_id, direction):
    if method_id in DRAWN_OTHERWISE and Version(torch.__version__) < DRAWN_OTHERWISE[method_id]:
        pytest.skip(f"its views are others before torch {DRAWN_OTHERWISE[method_id]}")
    golden = read(method_id)
    kept = golden and Golden(golden.version, on(direction, golden.steps))
    method = get_method(method_id)
    reason = complaint(method_id, version_of(method), kept, steps_on(method, direction))
    assert reason is None, reason


def test_every_file_is_of_a_method():
    assert {path.stem for path in FOLDER.iterdir()} == set(built_in()), "delete the files of methods that are gone"
