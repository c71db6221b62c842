"""Options that several commands share, and where output goes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cakdbench.utils.places import cache_path


class Estimation(StrEnum):
    """Choose where an estimate of time comes from."""

    counted = "counted"
    measured = "measured"


class OnBadImage(StrEnum):
    """Choose what becomes of images that cannot be read."""

    refuse = "refuse"
    skip = "skip"


console = Console()
errors = Console(stderr=True)

TEACHERS = cache_path("teachers")

StoreDir = Annotated[Path, typer.Option("--store", envvar="CAKDBENCH_STORE", help="Where the runs are kept.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="CAKDBENCH_DATA", help="Where the datasets lie.")]
BadImages = Annotated[
    OnBadImage, typer.Option("--on-bad-image", help="Stop at an image that cannot be read, or leave all such out.")
]
TeacherDir = Annotated[
    Path, typer.Option("--teacher-dir", envvar="CAKDBENCH_TEACHERS", help="Where teachers' weight files lie.")
]
Results = Annotated[Path, typer.Option("--results", help="The submitted results.")]
Boards = Annotated[Path, typer.Option("--boards", help="Where the boards are written.")]
TeacherFiles = Annotated[list[Path], typer.Option("--teachers", help="TOML file with teacher entries of your own.")]
MethodFiles = Annotated[list[Path], typer.Option("--method-file", help="Python file with methods of your own.")]
ModelFiles = Annotated[list[Path], typer.Option("--model-file", help="Python file with networks of your own.")]
Set = Annotated[
    list[str], typer.Option("--set", help="Change numbers: --set recipe.epochs=5 ofa.gamma=1.2 teacher.epochs=1")
]
MoreSet = Annotated[list[str], typer.Argument(metavar="[KEY=VALUE]...", help="More of --set.", show_default=False)]
Seeds = Annotated[str, typer.Option(help="For example 0, or 0,1,2.")]
Precision = Annotated[str, typer.Option(help="fp32, or bf16 (autocast); part of a run's key.")]
Workers = Annotated[int | None, typer.Option(help="Processes that render images; default: 0 on a CPU.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; other numbers may round results differently.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")]
CardPair = Annotated[str, typer.Option("--pair", help="The pair extra parameters are counted on.")]
TeacherName = Annotated[str, typer.Argument(help="MODEL@DATASET, as in swin_t@cifar100.")]
