"""The commands of docs/cluster.md work as they stand there, as far as one machine is a cluster: on fewer pictures."""

import itertools
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cakdbench.store import Store
from tests.cli_lab import PAIR, SHORT, Program

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^    (\w.*)", PAGE, re.MULTILINE)]
PROGRAMS = {"ray": "ray.scripts.scripts", "accelerate": "accelerate.commands.accelerate_cli"}
"""As modules, of the Python that runs the tests."""
SHORTEST = (*(text for text in SHORT if "epochs" not in text), "recipe.epochs=1", "teacher.epochs=1")


def here(words: list[str], tiny: Path, work: Path) -> list[str]:
    """A command of the page on the tiny dataset, with its shared folder in place of /shared."""
    at = words.index("run")
    words = [word.replace("/shared", str(work)).replace("demo", PAIR) for word in words[at:]]
    if "--gpus" in words:
        del words[words.index("--gpus") : words.index("--gpus") + 2]
    if "slurm" in words:
        words += ["--slurm", "cluster=local"]
    store = [] if "--store" in words else ["--store", str(work / "runs")]
    return [
        *words, *store, "--data-dir", str(tiny), "--teachers", str(tiny / "teachers.toml"), "--boards", str(work),
        "--recipe", "demo", "--cpu", *["--yes"] * ("--dry-run" not in words), "--set", *SHORTEST,
    ]  # fmt: skip


def start(words: list[str], log: Path) -> subprocess.Popen:
    settings = dict(word.split("=") for word in itertools.takewhile(lambda word: "=" in word, words))
    program, *arguments = words[len(settings) :]
    command = [sys.executable, "-m", PROGRAMS[program], *arguments]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | settings
    return subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=2)


@pytest.fixture
def two_nodes(tmp_path):
    """What `ray start` makes, which ends with the test: `ray stop` would end any other Ray of the machine too."""
    head, second, stop = (words for words in COMMANDS if "ray" in words[:2])
    assert stop == ["ray", "stop"]
    nodes = []
    try:
        for words in (head, [word.replace("FIRST", "127.0.0.1") for word in second]):
            log = tmp_path / f"node-{len(nodes)}.txt"
            nodes.append(start([*words, "--num-cpus", "1", "--block"], log))
            while "Ray runtime started" not in log.read_text():
                assert nodes[-1].poll() is None, log.read_text()
                time.sleep(0.1)
        yield
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait()


def test_two_ray_nodes_lead_to_a_board(tiny, tmp_path, two_nodes):
    (run,) = (words for words in COMMANDS if "--ray-address" in words)
    code, output = Program(*here(run, tiny, tmp_path)).finish()
    assert code == 0, output
    assert len(Store(tmp_path / "runs").records()[0]) == 5 and list(tmp_path.glob("*.md"))


def test_slurm_and_one_machine_go_on_in_the_same_store(tiny, tmp_path):
    (slurm,) = (words for words in COMMANDS if "slurm" in words and "run" in words)
    alone = [words for words in COMMANDS if words[:2] == ["cakdbench", "run"] and "--launcher" not in words]
    code, output = Program(*here(slurm, tiny, tmp_path)).finish()
    assert code == 0, output
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/record.json")}
    assert len(records) == 5 and len(alone) == 4
    for words in alone:
        code, output = Program(*here(words, tiny, tmp_path)).finish()
        assert code == 0, output
    assert records == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/record.json")}


def test_accelerate_launches_the_command(tiny, tmp_path):
    """In one process: with `--cpu` it starts no second. `tests/utils/test_distributed.py` has two."""
    (launch,) = (words for words in COMMANDS if words[0] == "accelerate")
    first = launch[: launch.index("run")]
    log = tmp_path / "log.txt"
    assert start([*first[:2], "--cpu", *first[2:], *here(launch, tiny, tmp_path)], log).wait() == 0, log.read_text()
    assert len(Store(tmp_path / "runs").records()[0]) == 5
