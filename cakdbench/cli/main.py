"""A benchmark suite for cross-architecture knowledge distillation."""

# Typer reads the options from the signatures below; torch is imported only by the commands that need it.

import codecs
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli import analyse as cli_analyse
from cakdbench.cli import costs as cli_costs
from cakdbench.cli import data as cli_data
from cakdbench.cli import methods as cli_methods
from cakdbench.cli import results as cli_reports
from cakdbench.cli import runs as cli_runs
from cakdbench.cli import speed as cli_speed
from cakdbench.cli import submissions as cli_submissions
from cakdbench.cli import tapes as cli_tapes
from cakdbench.cli import upkeep as cli_upkeep
from cakdbench.cli.options import (
    TEACHERS,
    AnyRecipe,
    BadImages,
    Cpu,
    DataDir,
    DatasetFiles,
    Estimate,
    Estimation,
    Gpus,
    GpuShare,
    Jobs,
    Keep,
    LauncherName,
    Launchers,
    MethodFiles,
    Methods,
    Mismatch,
    ModelFiles,
    MoreSet,
    OnBadImage,
    OwnBoards,
    Precision,
    RayAddress,
    Seeds,
    Set,
    SlurmSettings,
    StoreDir,
    Tape,
    TapeLogits,
    TeacherDir,
    TeacherFiles,
    TeacherName,
    Threads,
    Track,
    Workers,
    console,
    errors,
    existing_store,
    keeps,
)
from cakdbench.cli.tables import AsFormat, Layout, print_rows
from cakdbench.utils.errors import CakdError, UsageError

if TYPE_CHECKING:
    from cakdbench.engine.options import RunOptions

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
teacher_app = typer.Typer(no_args_is_help=True, help="List, train and check the teachers.")
app.add_typer(teacher_app, name="teacher")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_analyse.app, name="analyse")
app.add_typer(cli_tapes.app, name="tape")


@app.command()
def run(
    more: MoreSet = [],
    pairs: Annotated[str, typer.Option(help="Suites, groups, TEACHER>STUDENT@DATASET; comma-separated.")] = "",
    experiment: Annotated[
        str, typer.Option(help="A table of a paper, as tas_table4, in the place of pairs, methods and recipe.")
    ] = "",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="With --experiment: small models and data stand in for the paper's.")
    ] = False,
    methods: Methods = "",
    recipe: AnyRecipe = None,
    seeds: Seeds = "0",
    set: Set = [],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
    teacher_dir: TeacherDir = TEACHERS,
    boards: OwnBoards = None,
    precision: Precision = "fp32",
    workers: Workers = None,
    max_lanes: Annotated[int, typer.Option(min=1, help="Students trained side by side at most.")] = 16,
    checkpoint_seconds: Annotated[float, typer.Option(help="Save at least this often, besides every epoch.")] = 300,
    keep: Annotated[
        str, typer.Option(help="modules, ema: what methods train beside the student; weights averaged by ema_decay.")
    ] = "",
    tape: Tape = False,
    tape_logits: TapeLogits = False,
    track: Track = "",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the training step.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the NHWC memory layout.")] = False,
    allow_teacher_mismatch: Mismatch = False,
    threads: Threads = 1,
    cpu: Cpu = False,
    jobs: Jobs = None,
    gpus: Gpus = None,
    launcher: LauncherName = Launchers.local,
    ray_address: RayAddress = None,
    gpu_share: GpuShare = 1.0,
    slurm: SlurmSettings = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and time estimate; run nothing.")] = False,
    estimate: Estimate = Estimation.counted,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking, however long it takes.")] = False,
) -> None:
    """Train every cell of methods x pairs x seeds that is not done yet, then write the boards."""
    from cakdbench.cli.running import run_plan, show_plan
    from cakdbench.engine.launch.choice import Launch, parse_slurm
    from cakdbench.engine.options import run_options

    if bool(pairs) == bool(experiment) or (tiny and not experiment):
        raise UsageError("name what to run: --pairs with --methods, or --experiment with or without --tiny")
    options = run_options(
        methods,
        [*set, *more],
        method_file,
        model_file,
        pairs=pairs,
        experiment=experiment,
        tiny=tiny,
        recipe=recipe,
        seeds=_numbers("--seeds", seeds),
        teacher_files=tuple(teachers),
        store=store,
        teacher_dir=teacher_dir,
        precision=precision,
        cpu=cpu,
        gpus=_numbers("--gpus", gpus) if gpus else (),
        threads=threads,
        data_dir=data_dir,
        dataset_files=tuple(datasets),
        download=not dry_run,
        on_bad_image=on_bad_image.value,
        workers=workers,
        max_lanes=max_lanes,
        checkpoint_seconds=checkpoint_seconds,
        tape=("logits",) if tape_logits else ("logits", "pooled") if tape else (),
        track=track,
        keep_ema=Keep.ema in keeps(keep),
        keep_modules=Keep.modules in keeps(keep),
        compile=compile,
        channels_last=channels_last,
        allow_teacher_mismatch=allow_teacher_mismatch,
    )
    if dry_run:
        show_plan(options, measured=estimate is Estimation.measured)
        return
    launch = Launch(launcher.value, jobs, ray_address, gpu_share, parse_slurm(slurm))
    complete = run_plan(options, boards or store / "boards", launch, yes)
    raise typer.Exit(0 if complete else 1)


for commands in (cli_methods, cli_reports, cli_runs, cli_costs, cli_speed, cli_submissions, cli_upkeep):
    app.add_typer(commands.app)


@app.command()
def status(
    store: StoreDir = Path("runs"),
    format: AsFormat = Layout.table,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show what runs where and what has failed, until Ctrl-C.")
    ] = False,
) -> None:
    """Show every run of the store and its state."""
    from cakdbench.cli.status import print_status
    from cakdbench.store import Store

    existing_store(store)
    if watch:
        from cakdbench.cli.watch import watch as watch_store

        watch_store(console, Store(store))
    else:
        print_status(console, Store(store), format)


@teacher_app.command("list")
def teacher_list(
    teachers: TeacherFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    format: AsFormat = Layout.table,
) -> None:
    """List the teachers and where their weights come from, those of the store and of your files too."""
    from cakdbench.cli import listing
    from cakdbench.grid.teacher_file import own_files

    cli_methods.load_files([], model_file)
    print_rows(console, listing.teachers(own_files(store, teachers)), format)


@teacher_app.command("remove")
def teacher_remove(name: TeacherName, teachers: TeacherFiles = [], store: StoreDir = Path("runs")) -> None:
    """Take the entry of a teacher of your own out of its file; its run stays."""
    from cakdbench.grid.teacher_file import own_files, remove_entry

    files = own_files(store, teachers)
    changed = [str(file) for file in files if remove_entry(file, *_teacher(name))]
    if not changed:
        looked = ", ".join(map(str, files)) or f"{store} has no teachers.toml"
        raise UsageError(f"no entry of your own for {name} ({looked}); `cakdbench teacher list` shows all")
    console.print(f"removed from {', '.join(changed)}", markup=False, highlight=False, soft_wrap=True)


@teacher_app.command("train")
def teacher_train(
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


@teacher_app.command("check")
def teacher_check(
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


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give whole numbers separated by commas, as in 0,1,2") from None


def _teacher(name: str) -> tuple[str, str]:
    model, at, dataset = name.partition("@")
    if not at:
        raise UsageError(f"{name!r}: name a teacher as MODEL@DATASET, as in swin_t@cifar100")
    return model, dataset


def main() -> None:
    """Entry point: what users can mend becomes one line and an exit code, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")  # Windows' code pages have no arrows
    try:
        app()
    except CakdError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk that fails where nothing can be done about it
        place = f"{error.filename}: " if error.filename else ""
        told = f"error: {place}{error.strerror or error}; nothing finished is lost, the same command goes on from here"
        errors.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(CakdError.exit_code)
    except SystemExit as leaving:
        if leaving.code == 130:  # Ctrl-C where nothing was listening for it
            errors.print("interrupted; the same command goes on from the last checkpoints", style="red")
        raise
