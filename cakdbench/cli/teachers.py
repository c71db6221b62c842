"""The commands about teachers: list, train, check, remove."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import (
    TEACHERS,
    BadImages,
    Cpu,
    DataDir,
    DatasetFiles,
    ModelFiles,
    MoreSet,
    OnBadImage,
    Precision,
    StoreDir,
    TeacherDir,
    TeacherFiles,
    TeacherName,
    Threads,
    Workers,
    console,
    say,
)
from cakdbench.cli.tables import AsFormat, Layout, print_rows
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.engine.options import RunOptions

app = typer.Typer(no_args_is_help=True, help="List, train and check the teachers.")


@app.command("list")
def list_teachers(
    teachers: TeacherFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    format: AsFormat = Layout.table,
) -> None:
    """List the teachers and where their weights come from, those of the store and of your files too."""
    from cakdbench.cli import listing
    from cakdbench.grid.teacher_file import own_files

    load_files([], model_file)
    print_rows(console, listing.teachers(own_files(store, teachers)), format)


@app.command("remove")
def remove(name: TeacherName, teachers: TeacherFiles = [], store: StoreDir = Path("runs")) -> None:
    """Take the entry of a teacher of your own out of its file; its run stays."""
    from cakdbench.grid.teacher_file import own_files, remove_entry

    files = own_files(store, teachers)
    changed = [str(file) for file in files if remove_entry(file, *_teacher(name))]
    if not changed:
        looked = ", ".join(map(str, files)) or f"{store} has no teachers.toml"
        raise UsageError(f"no entry of your own for {name} ({looked}); `cakdbench teacher list` shows all")
    say(f"removed from {', '.join(changed)}")


@app.command("train")
def train(
    name: TeacherName,
    more: MoreSet = [],
    recipe: Annotated[str | None, typer.Option(help="Recipe to train by; default: its entry's.")] = None,
    set: Annotated[list[str], typer.Option("--set", help="Change its numbers: --set recipe.epochs=5")] = [],
    seed: Annotated[int | None, typer.Option(help="Default: its entry's, or 0.")] = None,
    model_file: ModelFiles = [],
    teachers: Annotated[
        list[Path], typer.Option("--teachers", help="TOML file for its entry; default: teachers.toml in --store.")
    ] = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
    teacher_dir: TeacherDir = TEACHERS,
    precision: Precision = "fp32",
    workers: Workers = None,
    threads: Threads = 1,
    cpu: Cpu = False,
) -> None:
    """Train a teacher, as its entry says or by a recipe; once it is done its entry is written, and runs use it."""
    from cakdbench.cli.running import train_teacher

    known = [file for file in teachers if file.exists()]
    options = _teacher_options(
        store,
        data_dir,
        datasets,
        on_bad_image,
        teacher_dir,
        known,
        workers,
        threads,
        cpu,
        model_file,
        settings=[*set, *more],
        precision=precision,
    )
    train_teacher(options, *_teacher(name), recipe, seed, teachers[-1] if teachers else store / "teachers.toml")


@app.command("check")
def check(
    name: TeacherName,
    recipe: Annotated[str | None, typer.Option(help="Recipe whose test images it sees; default: its own.")] = None,
    model_file: ModelFiles = [],
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
    teacher_dir: TeacherDir = TEACHERS,
    workers: Workers = None,
    threads: Threads = 1,
    cpu: Cpu = False,
) -> None:
    """Evaluate a teacher and compare it with its entry."""
    from cakdbench.cli.running import check_teacher

    options = _teacher_options(
        store, data_dir, datasets, on_bad_image, teacher_dir, teachers, workers, threads, cpu, model_file, recipe
    )
    check_teacher(options, *_teacher(name))


def _teacher_options(
    store: Path,
    data_dir: Path | None,
    datasets: list[Path],
    on_bad_image: OnBadImage,
    teacher_dir: Path,
    teachers: list[Path],
    workers: int | None,
    threads: int,
    cpu: bool,
    model_file: list[Path],
    recipe: str | None = None,
    settings: list[str] = [],
    precision: str = "fp32",
) -> "RunOptions":
    from cakdbench.engine.options import run_options

    return run_options(
        settings=settings,
        precision=precision,
        model_files=model_file,
        store=store,
        data_dir=data_dir,
        dataset_files=tuple(datasets),
        on_bad_image=on_bad_image.value,
        teacher_dir=teacher_dir,
        teacher_files=tuple(teachers),
        workers=workers,
        threads=threads,
        cpu=cpu,
        recipe=recipe,
    )


def _teacher(name: str) -> tuple[str, str]:
    model, at, dataset = name.partition("@")
    if not at:
        raise UsageError(f"{name!r}: name a teacher as MODEL@DATASET, as in swin_t@cifar100")
    return model, dataset
