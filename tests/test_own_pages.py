"""The examples of docs/own_loop.md and docs/own_method.md work as they stand there."""

import re
import shlex
from pathlib import Path

from tests.cli_lab import PAIR, SHORT

DOCS = Path(__file__).parents[1] / "docs"


def test_a_method_steps_in_a_loop_of_ones_own(capsys):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "own_loop.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/own_loop.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "'label'" in shown and "['dkd', 'label', 'loss', 'output']" in shown
    assert all(p.requires_grad for p in names["student"].parameters())
    assert not any(p.requires_grad for p in names["teacher"].parameters())


def test_a_method_of_ones_own_runs_and_is_found(shell, monkeypatch):
    """On a smaller dataset; `cakdbench check` of what `new` writes has tests of its own (cli/test_new.py)."""
    monkeypatch.chdir(shell.work)
    page = (DOCS / "own_method.md").read_text().replace("resnet_m>vit_xs@fashion_demo", PAIR)
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^    cakdbench (.*)$", page, re.MULTILINE)]
    shown = ""
    for name, *words in commands:
        if name == "run":
            place = words.index("--pairs")
            code, shown = shell.run(*words[:place], *words[place + 2 :], settings=(*SHORT, "recipe.epochs=1"))
        elif name != "check":
            code, shown = shell(name, *words)
        assert code == 0, shown
        assert name != "results" or "my_method" in shown, shown
    assert {name for name, *_ in commands} == {"new", "check", "run", "results"}
    assert "my_method[temperature=1" in shown  # the grid's plan, printed last
