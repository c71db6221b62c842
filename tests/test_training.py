"""`cakdbench.run` as a notebook calls it: the command's runs, as a frame."""

import signal

import pytest
import torch

from cakdbench.store import Store
from cakdbench.train.trainer import Interrupted
from cakdbench.training import run
from cakdbench.utils.errors import UsageError
from tests.cli_lab import PAIR, SHORT, Shell

SETTINGS = {key: int(value) for key, value in (setting.split("=") for setting in SHORT)}


@pytest.fixture
def call(tiny, tmp_path):
    """`run` with the places of a small dataset."""

    def run_here(methods="ofa", **more):
        places = {"store": tmp_path / "runs", "data_dir": tiny, "teacher_dir": tmp_path / "teachers"}
        common = {"recipe": "demo", "teacher_files": [tiny / "teachers.toml"], "cpu": True, "jobs": 1}
        return run(methods, PAIR, **places | common | {"settings": SETTINGS} | more)

    return run_here


def test_it_gives_the_runs_of_the_command_and_leaves_the_process_as_it_was(call, tiny, tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    runs = call(["ofa[gamma=1.37]"], progress=False)
    assert (signal.getsignal(signal.SIGINT), torch.get_num_threads()) == before
    assert capsys.readouterr() == ("", "")
    assert sorted(runs["method"]) == ["kd", "ofa[gamma=1.37]", "scratch"]
    shell = Shell(tiny, tmp_path / "command")
    code, output = shell.run("--methods", "ofa[gamma=1.37]")
    assert code == 0, output
    commanded = {r.key: r.weights_sha256 for r in Store(shell.store).records()[0] if r.recipe_name == "demo"}
    assert dict(zip(runs["key"], runs["weights_sha256"])) == commanded


def test_settings_are_those_of_the_command_and_finished_runs_are_kept(call, tmp_path):
    first = call(settings=SETTINGS | {"ofa.gamma": 1.37, "recipe.epochs": 1})
    assert "ofa[gamma=1.37]" in set(first["method"])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}
    again = call(settings=SETTINGS | {"ofa.gamma": 1.37, "recipe.epochs": 1})
    assert again.equals(first)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}
    other = call("", seeds=[1], settings=SETTINGS | {"recipe.epochs": 1})
    assert set(other["seed"]) == {1} and set(other["method"]) == {"scratch", "kd"}


FAILING = """
from cakdbench.method import Method
from cakdbench.registry import register

@register("failing", title="Failing", paper="none", url="")
class Failing(Method):
    def distill_step(self, batch):
        raise ValueError("of this shape nothing is known")
"""


def test_a_failed_run_is_warned_of_and_not_in_the_frame(call, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    with pytest.warns(UserWarning, match="of this shape nothing is known"):
        runs = call("failing", method_files=[tmp_path / "failing.py"])
    assert sorted(runs["method"]) == ["kd", "scratch"]


def test_what_is_wrong_is_raised_before_anything_starts(call, tmp_path):
    for wrong, words in (({"methods": "offa"}, "ofa"), ({"settings": {"recipe.epoch": 1}}, "epochs")):
        with pytest.raises(UsageError, match=words):
            call(**wrong)
    assert not (tmp_path / "runs").exists()


def test_it_stops_when_asked_and_goes_on_from_there(call):
    asked = iter([False] * 12 + [True] * 1000)
    with pytest.raises(Interrupted):
        call(stop=lambda: next(asked))
    assert len(call()) == 3
