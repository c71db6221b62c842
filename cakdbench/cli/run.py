"""The command `run`: what it is told becomes the options of a session."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    SettingsFiles,
    SlurmSettings,
    StoreDir,
    Tape,
    TapeLogits,
    TeacherDir,
    TeacherFiles,
    Threads,
    Track,
    Workers,
    keeps,
    numbers,
)
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.engine.options import RunOptions

app = typer.Typer()

AS_TOLD = (
    *("pairs", "experiment", "tiny", "recipe", "store", "teacher_dir", "precision", "cpu", "threads", "data_dir"),
    *("workers", "max_lanes", "memory", "checkpoint_seconds", "track", "compile", "channels_last"),
    "allow_teacher_mismatch",
)
"""What the command has by the names of the options' fields, and in their form."""


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
    settings: SettingsFiles = [],
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
    memory: Annotated[
        float | None, typer.Option(min=0, help="GB that they may take together; default: most of a GPU's.")
    ] = None,
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
    told = dict(locals())  # the signature is the one place that lists them all
    from cakdbench.cli.running import run_plan, show_plan
    from cakdbench.engine.launch.choice import Launch, parse_slurm

    options = _options(told)
    launch = Launch(launcher.value, jobs, ray_address, gpu_share, parse_slurm(slurm))
    if dry_run:
        return show_plan(options, launch, measured=estimate is Estimation.measured)
    complete = run_plan(options, boards or store / "boards", launch, yes)
    raise typer.Exit(0 if complete else 1)


def _options(told: dict[str, Any]) -> "RunOptions":
    from cakdbench.engine.options import run_options

    if bool(told["pairs"]) == bool(told["experiment"]) or (told["tiny"] and not told["experiment"]):
        raise UsageError("name what to run: --pairs with --methods, or --experiment with or without --tiny")
    kept = keeps(told["keep"])
    return run_options(
        told["methods"],
        [*told["set"], *told["more"]],
        told["method_file"],
        told["model_file"],
        tuned_files=tuple(told["settings"]),
        seeds=numbers("--seeds", told["seeds"]),
        gpus=numbers("--gpus", told["gpus"]) if told["gpus"] else (),
        teacher_files=tuple(told["teachers"]),
        dataset_files=tuple(told["datasets"]),
        download=not told["dry_run"],
        on_bad_image=told["on_bad_image"].value,
        tape=("logits",) if told["tape_logits"] else ("logits", "pooled") if told["tape"] else (),
        keep_ema=Keep.ema in kept,
        keep_modules=Keep.modules in kept,
        **{name: told[name] for name in AS_TOLD},
    )
