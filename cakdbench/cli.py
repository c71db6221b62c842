"""A benchmark suite for cross-architecture knowledge distillation."""

# Typer reads the options from the signatures below; torch is imported only by the commands that need it.

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cakdbench.errors import CakdError, UsageError

if TYPE_CHECKING:
    from cakdbench.bench import Bench

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
teacher_app = typer.Typer(no_args_is_help=True, help="List, train and check the teachers.")
app.add_typer(teacher_app, name="teacher")
console = Console()
errors = Console(stderr=True)

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cakdbench"

StoreDir = Annotated[Path, typer.Option("--store", envvar="CAKDBENCH_STORE", help="Where the runs are kept.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="CAKDBENCH_DATA", help="Where the datasets lie.")]
TeacherDir = Annotated[
    Path, typer.Option("--teacher-dir", envvar="CAKDBENCH_TEACHERS", help="Where teachers' weight files lie.")
]
Boards = Annotated[Path, typer.Option("--boards", help="Where the boards are written.")]
TeacherFiles = Annotated[list[Path], typer.Option("--teachers", help="TOML file with teacher entries of your own.")]
MethodFiles = Annotated[list[Path], typer.Option("--method-file", help="Python file with methods of your own.")]
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


class Listing(StrEnum):
    methods = "methods"
    pairs = "pairs"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"
    teachers = "teachers"


@app.command()
def run(
    pairs: Annotated[str, typer.Option(help="Suites, groups, TEACHER>STUDENT@DATASET; comma-separated.")],
    more: MoreSet = [],
    methods: Annotated[str, typer.Option(help="Methods, METHOD:VARIANT, or all; scratch and kd always join.")] = "",
    recipe: Annotated[str | None, typer.Option(help="A recipe for all pairs instead of each pair's own.")] = None,
    seeds: Seeds = "0",
    set: Set = [],
    method_file: MethodFiles = [],
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    teacher_dir: TeacherDir = CACHE / "teachers",
    boards: Boards = Path("leaderboards"),
    precision: Precision = "fp32",
    workers: Workers = None,
    max_lanes: Annotated[int, typer.Option(min=1, help="Students trained side by side at most.")] = 16,
    checkpoint_seconds: Annotated[float, typer.Option(help="Save at least this often, besides every epoch.")] = 300,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the training step.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the NHWC memory layout.")] = False,
    allow_teacher_mismatch: Annotated[
        bool, typer.Option("--allow-teacher-mismatch", help="Go on with a teacher off its entry, and record it.")
    ] = False,
    threads: Threads = 1,
    cpu: Cpu = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the groups; default: one per core on a CPU, else 1.")
    ] = None,
    helper_of: Annotated[int | None, typer.Option(hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and time estimate; run nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking, however long it takes.")] = False,
) -> None:
    """Train every cell of methods x pairs x seeds that is not done yet, then write the boards."""
    from cakdbench.plan import Settings, make_plan
    from cakdbench.reports.write import write_boards
    from cakdbench.suites import resolve_pairs

    _load_methods(method_file)
    settings = Settings.parse([*set, *more])
    specs = resolve_pairs(pairs, recipe)
    plan = make_plan(_names(methods), specs, _seeds(seeds), settings, precision, data_dir)
    bench = _bench(
        store,
        data_dir,
        teacher_dir,
        teachers,
        settings=settings,
        precision=precision,
        cpu=cpu,
        threads=threads,
        workers=workers,
        max_lanes=max_lanes,
        checkpoint_seconds=checkpoint_seconds,
        compile=compile,
        channels_last=channels_last,
        allow_teacher_mismatch=allow_teacher_mismatch,
    )
    outlook = bench.look_ahead(plan)
    if dry_run:
        bench.show(plan, outlook)
        return
    for obstacle in outlook.obstacles:
        raise obstacle
    bench.confirm(outlook, yes)
    for refusal in plan.refusals:
        console.print(f"refused: {refusal.label} on {refusal.pair}: {refusal.reason}", markup=False)
    if helper_of:
        bench.help(plan.cells, helper_of)
        return
    outcome = bench.run(plan.cells, bench.jobs(outlook, jobs))
    if bench.accelerator.is_main_process:
        write_boards(bench.store, specs, boards, console, data_dir)
    for key, reason in outcome.failed.items():
        errors.print(f"failed: {key}: {reason}", style="red", markup=False, highlight=False)
    raise typer.Exit(1 if outcome.failed else 0)


@app.command("list")
def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.")],
    method_file: MethodFiles = [],
    teachers: TeacherFiles = [],
    variants: Annotated[bool, typer.Option("--variants", help="With methods: list their variants.")] = False,
    pair: CardPair = "swin_t>resnet18@cifar100",
) -> None:
    """List what can be named on the command line."""
    from cakdbench import cards, listing

    _load_methods(method_file)
    if what is Listing.methods:
        table = cards.variants_table() if variants else cards.methods_table(pair)
    else:
        table = listing.teachers(teachers) if what is Listing.teachers else getattr(listing, what.value)()
    console.print(table)


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="A method's id or alias.")],
    method_file: MethodFiles = [],
    pair: CardPair = "swin_t>resnet18@cifar100",
) -> None:
    """Show a method's card: formula, settings and their sources, deviations from paper and code, variants."""
    from cakdbench import cards
    from cakdbench.registry import split_variant

    _load_methods(method_file)
    for part in cards.explanation(split_variant(method)[0], pair):
        console.print(part, highlight=False)
        console.print()


@app.command()
def check(
    methods: Annotated[str, typer.Argument(help="Methods, METHOD:VARIANT, Python files with methods, or all.")],
    method_file: MethodFiles = [],
    processes: Annotated[bool, typer.Option(help="Also train with two processes.")] = True,
) -> None:
    """Check on small models, in under a minute a method, that it keeps the contract."""
    import torch

    from cakdbench.checks import check_method, findings_table
    from cakdbench.checks.lab import Lab
    from cakdbench.registry import split_variant

    torch.set_num_threads(1)
    files, failed = [*method_file], False
    for name in _methods_in(methods, files):
        lab = Lab(*split_variant(name))
        with console.status(f"checking {name}"):
            findings = list(check_method(lab, files, processes))
        console.print(findings_table(name, findings))
        failed |= not all(finding.passed for finding in findings)
    raise typer.Exit(1 if failed else 0)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The method's id: small letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where the two files are written.")] = Path(),
) -> None:
    """Write a method file that works, a variant of KD to start from, and a test of it."""
    from cakdbench.scaffold import write_method

    method, test = write_method(name, folder)
    console.print(
        f"wrote {method} and {test}\n\nnext:\n"
        f"  edit {method}: the loss, the settings, the card in the docstring\n"
        f"  cakdbench check {method}\n"
        f"  pytest {test}\n"
        f"  cakdbench run --method-file {method} --methods {name} --pairs demo",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def status(store: StoreDir = Path("runs")) -> None:
    """Show every run of the store and its state."""
    from cakdbench.reports.status import status_table
    from cakdbench.store import Store

    console.print(status_table(Store(store)))


@app.command()
def leaderboard(
    pairs: Annotated[str, typer.Option(help="Suites whose boards are written; default: all with runs.")] = "",
    method_file: MethodFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Write the boards anew from the records of the store."""
    from cakdbench.reports.write import write_boards
    from cakdbench.store import Store
    from cakdbench.suites import resolve_pairs

    _load_methods(method_file)
    write_boards(Store(store), resolve_pairs(pairs) if pairs else None, boards, console, data_dir)


@teacher_app.command("list")
def teacher_list(teachers: TeacherFiles = []) -> None:
    """List the teachers and where their weights come from."""
    from cakdbench import listing

    console.print(listing.teachers(teachers))


@teacher_app.command("train")
def teacher_train(
    name: TeacherName,
    recipe: Annotated[str | None, typer.Option(help="Recipe to train by; default: its entry's.")] = None,
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    teacher_dir: TeacherDir = CACHE / "teachers",
    workers: Workers = None,
    threads: Threads = 1,
    cpu: Cpu = False,
) -> None:
    """Train a teacher, as its entry says or by a recipe; from then on runs use it."""
    from cakdbench.teachers import note_training

    model, dataset = _teacher(name)
    if recipe:
        note_training(teacher_dir, model, dataset, recipe)
    bench = _bench(store, data_dir, teacher_dir, teachers, cpu=cpu, threads=threads, workers=workers)
    cell = bench.teachers.training_cell(model, dataset)
    if cell is None:
        raise UsageError(f"{name} comes as a file, not by training; add --recipe RECIPE to train one of your own")
    outcome = bench.run([cell])
    for reason in outcome.failed.values():
        raise CakdError(f"training {name} failed: {reason}")
    bench.check_teacher(model, dataset)


@teacher_app.command("check")
def teacher_check(
    name: TeacherName,
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    teacher_dir: TeacherDir = CACHE / "teachers",
    workers: Workers = None,
    threads: Threads = 1,
    cpu: Cpu = False,
) -> None:
    """Evaluate a teacher and compare it with its entry."""
    bench = _bench(store, data_dir, teacher_dir, teachers, cpu=cpu, threads=threads, workers=workers)
    bench.check_teacher(*_teacher(name))


def _bench(
    store: Path,
    data_dir: Path | None,
    teacher_dir: Path,
    teachers: list[Path],
    *,
    settings=None,
    precision: str = "fp32",
    cpu: bool = False,
    threads: int = 1,
    workers: int | None = None,
    **options,
) -> "Bench":
    from cakdbench.bench import Bench
    from cakdbench.device import make_accelerator
    from cakdbench.group import Options
    from cakdbench.plan import Settings
    from cakdbench.store import Store
    from cakdbench.teachers import Teachers

    accelerator = make_accelerator(precision, cpu, threads)
    console.quiet = not accelerator.is_main_process
    if workers is None:
        workers = 0 if accelerator.device.type == "cpu" else min(8, os.cpu_count() or 1)
    runs = Store(store)
    registry = Teachers(runs, teacher_dir, settings or Settings(), teachers, precision)
    return Bench(console, runs, registry, accelerator, Options(data_dir=data_dir, workers=workers, **options))


def _load_methods(files: list[Path]) -> None:
    from cakdbench.registry import load_file

    for path in files:
        load_file(path)


def _methods_in(names: str, files: list[Path]) -> list[str]:
    """The labels in `names`; a file stands for the methods it registers, and joins `files`."""
    from cakdbench.labels import expand
    from cakdbench.registry import load_file, method_ids

    _load_methods(files)
    chosen = []
    for name in expand(names):
        if name == "all":
            chosen += method_ids()
        elif name.endswith(".py"):
            files.append(Path(name))
            chosen += load_file(Path(name))
        else:
            chosen.append(name)
    return chosen


def _names(text: str) -> list[str]:
    from cakdbench.labels import expand
    from cakdbench.registry import method_ids

    names = expand(text)
    return method_ids() if names == ["all"] else names


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text!r}: give whole numbers separated by commas, as in 0,1,2") from None


def _teacher(name: str) -> tuple[str, str]:
    model, at, dataset = name.partition("@")
    if not at:
        raise UsageError(f"{name!r}: name a teacher as MODEL@DATASET, as in swin_t@cifar100")
    return model, dataset


def main() -> None:
    """Entry point: what users can mend becomes one line and an exit code, without a traceback."""
    try:
        app()
    except CakdError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == 130:  # Ctrl-C where nothing was listening for it
            errors.print("interrupted; the same command goes on from the last checkpoints", style="red")
        raise
