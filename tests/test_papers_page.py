"""The commands, links and the example of docs/papers.md are as they stand there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from cakdbench.grid.experiments import EXPERIMENTS_DIR, experiment_names
from cakdbench.reports import pages

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "papers.md").read_text()
BLOCKS = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, re.MULTILINE)


def test_the_commands_work(shell, monkeypatch):
    monkeypatch.setattr(pages, "experiment_names", lambda: ["tas_table8"])  # all of them take a while
    for line in BLOCKS[0].strip().splitlines():
        words = shlex.split(line, comments=True)[1:]
        small = [word.replace("tas_table4", "tas_table9") for word in words]  # has few runs
        dry = ["--dry-run", *shell.places()] if words[0] == "run" else []
        code, text = shell(*dict.fromkeys(small + dry))
        assert code == 0, (line, text)


def test_every_experiment_is_linked():
    links = re.findall(r"\]\((\.\./leaderboards/[^)]+)\)", PAGE)
    assert all((DOCS / link).is_file() for link in links)
    assert {Path(link).stem for link in links if "/papers/" in link} == set(experiment_names())


def test_the_example_is_the_shipped_file():
    assert tomllib.loads(BLOCKS[1]) == tomllib.loads((EXPERIMENTS_DIR / "fofa_table4.toml").read_text())


FIGURES = [shlex.split(line)[1:] for line in re.findall(r"\| `(cakdbench [^`]+)` \|$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("words", FIGURES, ids=lambda words: words[1])
def test_a_figures_command_lacks_its_runs_or_its_data_and_nothing_else(words, shell):
    """On the demo's runs the commands are those of analysis.md, whose test runs them."""
    trains, runs = words[0] == "run", any(word.startswith("run:") for word in words)
    code, text = shell(*words, *(["--dry-run", "--cpu", *shell.places()] if trains else ["--store", str(shell.store)]))
    assert (code == 0) == trains, text
    assert ("missing before it can start" if trains else "means no finished runs" if runs else "imagenet1k") in text


def test_every_figure_with_data_has_a_command():
    figures = [row.split("|")[1].strip() for row in PAGE.splitlines() if row.endswith("` |")]
    assert figures == ["TAS 1, 5, 6", "FOFA 3", "PCA/GL 1b", "PCA/GL 3a", "PCA/GL 3b"] and len(FIGURES) == 5
