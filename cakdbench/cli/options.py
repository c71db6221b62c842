"""Options that several commands share, and where output goes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cakdbench.cli.tables import make_console
from cakdbench.utils.errors import UsageError
from cakdbench.utils.places import cache_path, existing_folder


class Estimation(StrEnum):
    """Choose where an estimate of time comes from."""

    counted = "counted"
    measured = "measured"


class Keep(StrEnum):
    """Choose what of a run is kept besides its student."""

    modules = "modules"
    ema = "ema"


def keeps(text: str) -> set[Keep]:
    """Return what a list with commas says.

    Raises:
        UsageError: something else is in it.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if strange := [name for name in names if name not in [*Keep]]:
        raise UsageError(f"--keep {strange[0]!r}: choose from {', '.join(Keep)}; or both, with a comma")
    return {*map(Keep, names)}


class Launchers(StrEnum):
    """Choose where the processes come from."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


class OnBadImage(StrEnum):
    """Choose what becomes of images that cannot be read."""

    refuse = "refuse"
    skip = "skip"


console = make_console()
errors = make_console(stderr=True)


def say(text: str, to: Console = console, **style: Any) -> None:
    """Print a text as it is, in lines that stay whole; `style` as Rich's `print` takes it."""
    to.print(text, markup=False, highlight=False, soft_wrap=True, **style)


TEACHERS = cache_path("teachers")

Methods = Annotated[str, typer.Option(help="Methods, METHOD:VARIANT, METHOD[KEY=1|2], or all; scratch and kd join.")]
AnyRecipe = Annotated[str | None, typer.Option(help="A recipe for all pairs instead of each pair's own.")]
OwnBoards = Annotated[Path | None, typer.Option(help="Where its boards are written; default: boards in --store.")]
Mismatch = Annotated[
    bool, typer.Option("--allow-teacher-mismatch", help="Go on with a teacher off its entry, and record it.")
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes, tasks or jobs that share the lanes; default: one per GPU, or per core."),
]
LauncherName = Annotated[
    Launchers, typer.Option("--launcher", help="Where the processes come from: this machine, a Ray cluster, Slurm.")
]
Gpus = Annotated[str | None, typer.Option(help="GPUs of this machine that work, as 0,1,3; default: all.")]
RayAddress = Annotated[
    str | None, typer.Option(help="With --launcher ray: auto or HOST:PORT; default: one of its own on this machine.")
]
GpuShare = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="With --launcher ray: the share of a GPU that a group needs.")
]
SlurmSettings = Annotated[
    list[str], typer.Option("--slurm", help="Of the jobs: --slurm partition=gpu --slurm time=240; can be repeated.")
]
Estimate = Annotated[
    Estimation, typer.Option(help="With --dry-run: count multiply-adds, or time a step of every kind of run.")
]
StoreDir = Annotated[Path, typer.Option("--store", envvar="CAKDBENCH_STORE", help="Where the runs are kept.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="CAKDBENCH_DATA", help="Where the datasets lie.", callback=existing_folder),
]


def _register(files: list[Path]) -> list[Path]:
    """Make the datasets of files known before anything asks for them."""
    if files:
        from cakdbench.data.datasets import register_datasets

        for file in files:
            register_datasets(file)
    return files


def existing_store(path: Path) -> Path:
    """Return the folder of a store; a mistyped one is not made.

    Raises:
        UsageError: there is none.
    """
    if not path.is_dir():
        raise UsageError(f"no store at {path}: `cakdbench run` makes one, --store names another")
    return path


DatasetFiles = Annotated[
    list[Path],
    typer.Option("--datasets", callback=_register, help="TOML file that describes datasets of your own."),
]
BadImages = Annotated[
    OnBadImage, typer.Option("--on-bad-image", help="Stop at an image that cannot be read, or leave all such out.")
]
TeacherDir = Annotated[
    Path, typer.Option("--teacher-dir", envvar="CAKDBENCH_TEACHERS", help="Where teachers' weight files lie.")
]
Results = Annotated[Path, typer.Option("--results", help="The submitted results.")]
Tape = Annotated[
    bool, typer.Option("--tape", help="Record what teachers say in the store, and replay it for later students.")
]
TapeLogits = Annotated[
    bool, typer.Option("--tape-logits", help="As --tape, without pooled features: less disk, for fewer methods.")
]
Boards = Annotated[Path, typer.Option("--boards", help="Where the boards are written.")]
TeacherFiles = Annotated[list[Path], typer.Option("--teachers", help="TOML file with teacher entries of your own.")]
MethodFiles = Annotated[list[Path], typer.Option("--method-file", help="Python file with methods of your own.")]
ModelFiles = Annotated[list[Path], typer.Option("--model-file", help="Python file with networks of your own.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set", help="Change numbers: --set recipe.epochs=5 ofa.gamma=1.2 teacher.epochs=1; KEY=1|2 runs both."
    ),
]
MoreSet = Annotated[list[str], typer.Argument(metavar="[KEY=VALUE]...", help="More of --set.", show_default=False)]
SettingsFiles = Annotated[
    list[Path], typer.Option("--settings", help="What `cakdbench tune` wrote: its settings join --methods.")
]
Seeds = Annotated[str, typer.Option(help="For example 0, or 0,1,2.")]
Precision = Annotated[str, typer.Option(help="fp32, or bf16 (autocast); part of a run's key.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that render images; default: 0 on a CPU.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; other numbers may round results differently.")]
Track = Annotated[
    str, typer.Option(help="Tell trackers how runs go: tensorboard, wandb (extra cakdbench[track]), csv; with commas.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")]
CardPair = Annotated[str, typer.Option("--pair", help="The pair extra parameters are counted on.")]
TeacherName = Annotated[str, typer.Argument(help="MODEL@DATASET, as in swin_t@cifar100.")]


def numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give whole numbers separated by commas, as in 0,1,2") from None
