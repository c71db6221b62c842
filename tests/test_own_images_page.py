"""The files and commands of docs/own_images.md work as they stand there, on fewer pictures and epochs."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from cakdbench.data import datasets
from tests.cli_lab import Shell

PAGE = (Path(__file__).parents[1] / "docs/own_images.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (cakdbench .*)", PAGE, re.MULTILINE)]
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
CLASSES = {"cat": (200, 40, 40), "dog": (40, 200, 40), "owl": (40, 40, 200)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of pictures and the files of the page, with one epoch in place of 30."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "_own", {})
    draw = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(24):
            noise = draw.normal(colour, 40, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "pets" / name / f"{number}.png")
    for block in BLOCKS:
        if named := re.match(r"# (\w+\.toml)\n", block):
            (tmp_path / named[1]).write_text(block.replace("epochs = 30", "epochs = 1"))
    return tmp_path


def colour_teacher(path: Path) -> None:
    """A resnet18 that tells the colours apart, with the classes in the order of its entry."""
    net = timm.create_model("resnet18", num_classes=3).eval()
    with torch.no_grad():
        means = [torch.tensor(CLASSES[name]) / 127.5 - 1 for name in ("dog", "cat", "owl")]
        pooled = torch.cat(
            [net.forward_head(net.forward_features(m.view(1, 3, 1, 1).expand(1, 3, 128, 128)), True) for m in means]
        )
        centred = pooled - pooled.mean(0)
        net.fc.weight.copy_(centred)
        net.fc.bias.copy_(-(centred @ pooled.mean(0)) - 0.5 * centred.square().sum(1))
    torch.save(net.state_dict(), path)


def test_the_page_leads_from_a_folder_to_a_board(place):
    torch.manual_seed(0)
    colour_teacher(place / "resnet18_pets.pth")
    shell = Shell(place, place)
    said = {}
    for words in COMMANDS:
        code, said[words[0], words[1]] = shell(*words, *["--cpu"] * (words[0] in ("run", "teacher")))
        assert code == 0, (words, said[words[0], words[1]])
    assert "Apart from the boards" not in said["run", "--methods"]  # its own recipe is its board's
    assert "57 training and 15 test images of 3 classes: cat, dog, owl" in said["data", "check"]
    assert re.search(r"statistics = \{mean = \[0\.\d+, ", said["data", "stats"])
    board = (place / "pages/pets.md").read_text()
    assert "DIST" in board and "resnet_m" in board and (place / "pages/pets.html").is_file()
    measured = re.search(r"(\d+\.\d+)", said["teacher", "check"])
    assert measured, said["teacher", "check"]
    written = [path for folder in ("pages", "runs") for path in (place / folder).rglob("*.[mj][ds]*")]
    assert written and not [path for path in written if str(place) in path.read_text()]


def test_the_other_sources_of_the_page_open(place):
    files = sorted((place / "pets").rglob("*.png"))
    with (place / "labels.csv").open("w", newline="") as file:
        rows = [(path.relative_to(place).as_posix(), path.parent.name) for path in files]
        csv.writer(file).writerows([("file", "breed"), *rows])
    held = {"images": np.stack([np.asarray(Image.open(path)) for path in files]), "labels": np.arange(72) // 24}
    np.savez(
        place / "pets.npz", **{f"{split}_{name}": array for split in ("train", "test") for name, array in held.items()}
    )
    others = [block for block in BLOCKS if block.startswith("[[datasets]]")]
    (place / "others.toml").write_text("\n".join(others))
    shell = Shell(place, place)
    for name, sizes in (("from_csv", "57 training and 15"), ("from_arrays", "72 training and 72")):
        code, output = shell("data", "check", name, "--datasets", "others.toml")
        assert code == 0 and f"{sizes} test images of 3 classes: cat, dog, owl" in output
    assert len(others) == 3
