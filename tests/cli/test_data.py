"""Data that is damaged or exchanged, as a user meets it on the command line."""

import shutil

import pytest
from PIL import Image, ImageOps

from cakdbench.store import Store
from tests.cli_lab import SHORT, Shell

ONCE = (*SHORT, "recipe.epochs=1", "teacher.epochs=1")
DAMAGED = "train/3/"


@pytest.fixture
def damaged(tiny, tmp_path, monkeypatch):
    """The command line on a copy of the small dataset in which an image is cut short."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(tiny, data)
    path = min((data / "tiny" / DAMAGED).iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    return Shell(data, tmp_path), path


def repaint(folder) -> None:
    for path in folder.rglob("*.png"):
        try:
            ImageOps.mirror(Image.open(path)).save(path)
        except OSError:
            continue


def test_check_names_what_cannot_be_read_and_hashes_all_contents(damaged):
    shell, path = damaged
    code, output = shell("data", "check", "timm:folder/tiny", "--data-dir", str(shell.data))
    assert code == 0 and "80 training and 60 test images of 10 classes: 0, 1, 2" in output and "content" not in output
    code, output = shell("data", "check", "timm:folder/tiny", "--data-dir", str(shell.data), "--full")
    assert code == 1 and f"{path} cannot be decoded" in output and "\ncontent " in output
    assert sum("cannot be decoded" in line for line in output.splitlines()) == 1
    assert "images that cannot be read, counted above: 1" in output
    code, output = shell("data", "stats", "timm:folder/tiny", "--data-dir", str(shell.data))
    assert code == 2 and "--on-bad-image skip" in output
    code, output = shell("data", "stats", "timm:folder/tiny", "--data-dir", str(shell.data), "--on-bad-image", "skip")
    assert code == 0 and "statistics = " in output and output.count("--on-bad-image") == 0


def test_an_unreadable_image_stops_the_run_or_is_left_out_and_exchanged_images_are_seen(damaged):
    shell, path = damaged
    code, output = shell.run("--workers", "1", settings=ONCE)
    errors = [line for line in output.splitlines() if "cannot be decoded" in line]
    assert code == 2 and len(errors) == 1 and str(path) in errors[0] and "Traceback" not in output
    code, output = shell("status", "--store", str(shell.store))
    assert "failed │ step 0" in output and "planned" not in output, output

    skip = ("--on-bad-image", "skip")
    code, output = shell.run(*skip, settings=ONCE)
    assert code == 0, output
    done = Store(shell.store).records()[0]
    assert len(done) == 3 and {record.identity.dataset.skipped for record in done} == {1}
    code, output = shell("evaluate", str(shell.store), "--data-dir", str(shell.data), "--cpu", "--format", "csv")
    assert code == 0 and output.count(",none,") == 3, output
    code, output = shell("predict", done[0].key, str(path), *shell.places()[:2])
    assert code == 2 and "cannot be decoded" in output and "--on-bad-image" not in output

    repaint(shell.data / "tiny")
    code, output = shell.run(*skip, "--dry-run", settings=ONCE)
    assert code == 0 and "planned" in output and "done" not in output
    for record in done:  # the teacher's among them
        begun = Store(shell.store).run(record.identity)
        (begun.path / "record.json").unlink()
        begun.checkpoints.mkdir()
        (begun.checkpoints / f"step-{1:09}-{'0' * 16}.pt").write_bytes(b"a checkpoint")
    code, output = shell.run(*skip, "--dry-run", settings=ONCE)
    obstacles = [line for line in output.splitlines() if "the images of timm:folder/tiny have changed since" in line]
    assert sorted(line.split("unfinished run ")[1].split()[0] for line in obstacles) == sorted(r.key for r in done)
    code, output = shell.run(*skip, settings=ONCE)
    assert code == 2 and "to go on, or remove" in output and not Store(shell.store).records()[0]


def test_warnings_are_one_line_without_our_source(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "data")
    note = tmp_path / "data/tiny/train/3/notes.txt"
    note.write_text("text")
    code, output = Shell(tmp_path / "data", tmp_path)("data", "check", "timm:folder/tiny", "--data-dir", "data")
    assert code == 0 and f"warning: files in {note.parents[1]} are no images, and left out (1 .txt" in output
    assert "UserWarning" not in output and "self._" not in output
