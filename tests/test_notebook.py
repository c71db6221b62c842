"""The Python examples of docs/notebook.md work as they stand there."""

import ast
import inspect
import os
import re
from pathlib import Path

import matplotlib
import pytest

import cakdbench

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/notebook.md").read_text(), re.DOTALL)
TRAINS = "cakdbench.run("


def public_calls(block):
    """The calls of functions of cakdbench, by name."""
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    return {
        call.func.attr: call
        for call in calls
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "cakdbench"
    }


def test_the_examples_run_in_order(monkeypatch, tmp_path, capsys):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    os.symlink(ROOT / "leaderboards", tmp_path / "leaderboards")
    names = {}
    for block in BLOCKS:
        if TRAINS not in block and all(hasattr(cakdbench, name) for name in public_calls(block)):
            exec(compile(block, "docs/notebook.md", "exec"), names)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "ofa" in shown and "average" in shown and "it is the training of a teacher" in shown
    assert names["both"].empty and len(names["gains"]) >= 15


@pytest.mark.parametrize("block", [block for block in BLOCKS if TRAINS in block])
def test_the_examples_that_train_call_what_there_is(block):
    if not hasattr(cakdbench, "run"):
        pytest.skip("cakdbench.run is not there yet")
    call = public_calls(block)["run"]
    inspect.signature(cakdbench.run).bind(*call.args, **{word.arg: word.value for word in call.keywords})


def test_every_public_function_has_an_example_of_less_than_thirty_lines():
    shown = {name for block in BLOCKS for name in public_calls(block)}
    assert set(cakdbench.__all__) - {"__version__"} <= shown
    assert max(block.count("\n") for block in BLOCKS) < 30
