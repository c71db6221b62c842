"""The commands and examples of docs/export.md work as they stand there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cakdbench.store import Store
from tests.cli_lab import Shell
from tests.students.lab import finished_run

PAGE = (Path(__file__).parents[1] / "docs/export.md").read_text()
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (cakdbench .*)", PAGE, re.MULTILINE)]
PYTHON = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
TOML = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_page_runs_in_order(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    run = finished_run(Store(Path("runs")), ema=True)
    (run.path / "log.txt").write_text("2026-01-01 00:00:00Z step 1/2: start: kd\n")
    for name in ("photo.png", "other.png"):
        Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(name)
    Path("my.toml").write_text(TOML)
    shell = Shell(tmp_path, tmp_path)
    for words in COMMANDS:
        code, text = shell(*words, *["--dry-run"] * (words[0] == "run"))
        assert code == 0, (words, text)
    names = {}
    exec(compile(PYTHON, "docs/export.md", "exec"), names)
    assert names["net"].num_classes == 3 and names["data"]["input_size"] == (3, 64, 64)
    pages = sorted(path.name for path in Path("pages").glob("*.*"))
    assert pages == [f"mine.{end}" for end in ("csv", "html", "md", "tex")]
    assert {words[0] for words in COMMANDS} == {"run", "status", "log", "predict", "export", "leaderboard"}
