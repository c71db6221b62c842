"""The commands of docs/analysis.md work as they stand there, on fewer images."""

import re
import shlex
import shutil
from pathlib import Path

from tests.cli_lab import Shell

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/analysis.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (cakdbench .*)", PAGE, re.MULTILINE)]


def test_every_command_of_the_page_writes_numbers_and_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "leaderboards/teachers", "runs")
    shutil.copytree(ROOT / "leaderboards/labels", "leaderboards/labels")
    for method in ("kd", "scratch", "ofa"):
        shutil.copytree(ROOT / "leaderboards/results" / method, f"leaderboards/results/{method}")
    shell = Shell(tmp_path, tmp_path)
    for words in COMMANDS:
        if words[0] == "run":
            words = [*words, "--dry-run", "--cpu"]
        elif any(word.startswith(("fofa-", "pcagl-")) for word in words):
            continue  # tests/analysis has such runs
        few = ["--images", "130"] * (words[1] == "similarity")
        code, text = shell(*words, *few)
        assert code == 0, (words, text)
    assert Path("noise.csv").read_text().count("shot_noise") == 2
    assert {words[1] for words in COMMANDS if words[0] == "analyse"} == {
        "similarity",
        "features",
        "attention",
        "agreement",
    }
    written = {path.name for path in Path("analysis").iterdir()}
    assert {f"{name}.{end}" for name in ("similarity-cka-1", "similarity-map-1", "features-1", "attention")
            for end in ("csv", "png", "svg")} <= written  # fmt: skip
