"""`cakdbench new`: what it writes works."""

import subprocess
import sys

import pytest


@pytest.fixture
def written(shell, tmp_path):
    code, output = shell("new", "my_kd", "--folder", str(tmp_path / "mine"))
    assert code == 0
    return tmp_path / "mine", output


def test_the_file_is_at_most_40_lines_and_its_test_passes(written):
    folder, _ = written
    assert len((folder / "my_kd.py").read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


def test_it_says_what_to_do_next_and_the_next_command_works(shell, written):
    folder, output = written
    for command in ("cakdbench check", "pytest", "cakdbench run --method-file"):
        assert command in output
    code, output = shell("explain", "my_kd", "--method-file", str(folder / "my_kd.py"))
    assert code == 0 and "temperature" in output and "L = CE(z_s, y)" in output


@pytest.mark.parametrize("name, words", [("kd", "registered"), ("My-KD", "small letters"), ("tas", "registered")])
def test_a_name_that_cannot_be_an_id_is_refused(shell, name, words):
    code, output = shell("new", name)
    assert code == 2 and words in output


def test_nothing_is_overwritten(shell, written):
    folder, _ = written
    (folder / "other.py").write_text("mine")
    code, output = shell("new", "other", "--folder", str(folder))
    assert code == 2 and "exists" in output
    assert (folder / "other.py").read_text() == "mine" and not (folder / "test_other.py").exists()
