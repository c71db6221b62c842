"""`cakdbench new`: what it writes works."""

import itertools

import pytest

from tests.cli_lab import Child

NUMBERS = itertools.count(1)


@pytest.fixture
def written(shell, tmp_path):
    """The method's file, under a name no other test registers, and what the command printed."""
    name = f"my_kd_{next(NUMBERS)}"
    code, output = shell("new", name, "--folder", str(tmp_path / "mine"))
    assert code == 0
    return tmp_path / "mine" / f"{name}.py", output


def test_the_file_is_at_most_40_lines_and_its_test_passes(written):
    path, _ = written
    assert len(path.read_text().splitlines()) <= 40
    command = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", f"--rootdir={path.parent}", str(path.parent)]
    code, output = Child(pytest.main, command).finish()
    assert code == 0 and "3 passed" in output, output


def test_it_says_what_to_do_next_and_the_next_command_works(shell, written):
    path, output = written
    for command in ("cakdbench check", "pytest", "cakdbench run --method-file"):
        assert command in output
    code, output = shell("explain", path.stem, "--method-file", str(path))
    assert code == 0 and "temperature" in output and "L = CE(z_s, y)" in output


@pytest.mark.parametrize(
    "name, words", [("kd", "registered"), ("My-KD", "small letters"), ("tas", "registered"), ("torch", "Python")]
)
def test_a_name_that_cannot_be_an_id_is_refused(shell, name, words):
    code, output = shell("new", name)
    assert code == 2 and words in output


def test_nothing_is_overwritten(shell, written):
    folder = written[0].parent
    (folder / "other.py").write_text("mine")
    code, output = shell("new", "other", "--folder", str(folder))
    assert code == 2 and "exists" in output
    assert (folder / "other.py").read_text() == "mine" and not (folder / "test_other.py").exists()


def test_a_folder_that_cannot_be_written_is_named(shell):
    (shell.work / "file").write_text("")
    code, output = shell("new", "my_own", "--folder", str(shell.work / "file" / "inside"))
    assert code == 2 and "cannot write into" in output and len(output.strip().splitlines()) == 1


def test_a_store_that_is_not_there_is_named(shell):
    code, output = shell("status", "--store", "mistyped")
    assert code == 2 and "no store at mistyped" in output
