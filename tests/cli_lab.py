"""The command line on a small dataset of real images: in this process, and in processes of its own."""

import contextlib
import io
import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from accelerate.state import AcceleratorState

from cakdbench.cli import main as cli
from cakdbench.cli.options import console, errors
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
    """Runs `cakdbench ...` with one store, data folder and board folder.

    Attributes:
        sure: whether `run` says `--yes`, which spares it the estimate.
    """

    def __init__(self, data: Path, work: Path, sure: bool = True):
        self.data, self.work, self.sure = data, work, sure
        self.store, self.boards = work / "runs", work / "boards"

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and all output."""
        AcceleratorState._reset_state()  # every command is a process of its own, with its own precision
        code, output = 0, io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cakdbench", *arguments])
            for stream in (console, errors):
                patch.setattr(stream, "width", 220)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                try:
                    cli.main()
                except SystemExit as leaving:
                    code = leaving.code or 0
        return code, output.getvalue()

    def places(self) -> list[str]:
        return [
            "--store", str(self.store), "--data-dir", str(self.data), "--teacher-dir", str(self.work / "teachers"),
        ]  # fmt: skip

    def run(self, *arguments: str, pairs: str = PAIR, settings: tuple[str, ...] = SHORT) -> tuple[int, str]:
        return self(*self.command(*arguments, pairs=pairs, settings=settings))

    def program(self, *arguments: str, pairs: str = PAIR) -> "Program":
        """The same command as `run`, started in a process of its own."""
        return Program(*self.command(*arguments, pairs=pairs))

    def command(self, *arguments: str, pairs: str = PAIR, settings: tuple[str, ...] = SHORT) -> list[str]:
        """The arguments of `run`."""
        more = ["--recipe", "demo"] if "--recipe" not in arguments else []
        settings = tuple({text.partition("=")[0]: text for text in settings}.values())  # later ones win over `SHORT`
        return [
            "run", "--pairs", pairs, *self.places(), "--boards", str(self.boards), "--cpu", "--jobs", "1", *more,
            "--teachers", str(self.data / "teachers.toml"), *arguments, *["--yes"] * self.sure, "--set", *settings,
        ]  # fmt: skip


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cakdbench.engine.session", "cakdbench.cli.main", "cakdbench.reports.pages", "pytest"])


def stop_forking() -> None:
    """End the process that others are forked from, and wait for it: then its time counts as the tests'."""
    multiprocessing.forkserver._forkserver._stop()


class Child:
    """A call in a process of its own, forked from one that has done nothing but make the imports, once for all.

    Args:
        daemon: it ends with this process, and cannot start others by multiprocessing, as `--workers` does.

    Attributes:
        process: pid, kill, exitcode.
        output: what it prints, to be read while it runs.
    """

    def __init__(self, call: Callable[..., int | None], *arguments, daemon: bool = True):
        reader, writer = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=_printing, args=(writer, call, *arguments), daemon=daemon)
        self.process.start()
        writer.close()
        self.output = open(os.dup(reader.fileno()), encoding="utf-8")

    def finish(self) -> tuple[int, str]:
        """Exit code (of a signal: the negative of its number), and what was not read yet of the output."""
        output = self.output.read()
        self.process.join()
        return self.process.exitcode, output

    def wait_for(self, *words: str) -> None:
        """Read what it prints up to a line with all the words."""
        for line in self.output:
            if all(word in line for word in words):
                return
        raise AssertionError(f"the process ended without printing {words}")


def descendants(pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the living processes below one, with their names and words."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # zombies too
            yield child, " ".join([child.name(), *child.cmdline()])


def renderers(pid: int) -> list[psutil.Process]:
    """Return the processes that render images for a process and those it has started; torch names them."""
    return [child for child, words in descendants(pid) if words.startswith("pt_data_worker")]


class Program(Child):
    """`cakdbench ...` in a process of its own.

    Args:
        site: a folder with packages that it finds besides those of this process.
    """

    def __init__(self, *arguments: str, site: Path | None = None, daemon: bool = True):
        super().__init__(cakdbench_command, site, *arguments, daemon=daemon)


def _printing(writer, call: Callable[..., int | None], *arguments) -> None:
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    sys.exit(call(*arguments))


def cakdbench_command(site: Path | None, *arguments: str) -> None:
    if site:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        sys.path.insert(0, str(site))
    console.width = 160
    sys.argv = ["cakdbench", *arguments]
    cli.main()
