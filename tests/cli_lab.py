"""The command line on a small dataset of real images, in this process."""

import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from cakdbench import cli
from cakdbench.data.datasets import load_dataset

PAIR = "resnet_m>vit_xs@timm:folder/tiny"
SHORT = ("recipe.epochs=2", "recipe.global_batch=20", "recipe.local_batch=20", "teacher.epochs=2",
         "teacher.global_batch=20", "teacher.local_batch=20")  # fmt: skip


def make_folder(root: Path, train: int = 8, test: int = 6) -> Path:
    """Ten classes of Fashion-MNIST as a folder of PNG files, `train` and `test` images per class."""
    full = load_dataset("fashion_demo")
    for name, split, count in (("train", full.train, train), ("val", full.test, test)):
        for label in range(10):
            folder = root / "tiny" / name / str(label)
            folder.mkdir(parents=True)
            for index in (split.labels == label).nonzero()[0][:count]:
                split.image(int(index)).save(folder / f"{index}.png")
    (root / "teachers.toml").write_text(
        '[[teachers]]\nmodel = "resnet_m"\ndataset = "timm:folder/tiny"\ntrain = "demo_teacher"\n'
    )
    return root


class Shell:
    """Runs `cakdbench ...` with one store, data folder and board folder."""

    def __init__(self, data: Path, work: Path, capsys: pytest.CaptureFixture):
        self.data, self.work, self.capsys = data, work, capsys
        self.store, self.boards = work / "runs", work / "boards"

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and all output."""
        AcceleratorState._reset_state()  # every command is a process of its own, with its own precision
        sys.argv = ["cakdbench", *arguments]
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        seen = self.capsys.readouterr()
        return code, seen.out + seen.err

    def places(self) -> list[str]:
        return [
            "--store", str(self.store), "--data-dir", str(self.data), "--teacher-dir", str(self.work / "teachers"),
        ]  # fmt: skip

    def run(self, *arguments: str, pairs: str = PAIR, settings: tuple[str, ...] = SHORT) -> tuple[int, str]:
        return self(*self._run(*arguments, pairs=pairs, settings=settings))

    def program(self, *arguments: str, pairs: str, settings: tuple[str, ...]) -> list[str]:
        """The same command as `run`, for a process of its own."""
        return [sys.executable, "-m", "cakdbench", *self._run(*arguments, pairs=pairs, settings=settings)]

    def _run(self, *arguments: str, pairs: str, settings: tuple[str, ...]) -> list[str]:
        more = ["--recipe", "demo"] if "--recipe" not in arguments else []
        return [
            "run", "--pairs", pairs, *self.places(), "--boards", str(self.boards), "--cpu", "--jobs", "1", *more,
            "--teachers", str(self.data / "teachers.toml"), *arguments, "--set", *settings,
        ]  # fmt: skip
