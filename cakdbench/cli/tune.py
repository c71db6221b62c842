"""The command that searches settings: tune."""

import re
from pathlib import Path
from typing import Annotated

import typer

from cakdbench.cli.options import (
    TEACHERS,
    AnyRecipe,
    BadImages,
    Cpu,
    DataDir,
    DatasetFiles,
    MethodFiles,
    Mismatch,
    ModelFiles,
    MoreSet,
    OnBadImage,
    Precision,
    Set,
    StoreDir,
    TeacherDir,
    TeacherFiles,
    Threads,
    Workers,
    say,
)
from cakdbench.utils.errors import UsageError

app = typer.Typer()


@app.command()
def tune(
    method: Annotated[str, typer.Argument(help="METHOD, or METHOD:VARIANT and METHOD[KEY=VALUE] for what is fixed.")],
    pair: Annotated[
        str, typer.Option(help="TEACHER>STUDENT@DATASET; several, or a suite, of one dataset share the settings.")
    ],
    more: MoreSet = [],
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, the default ones among them.")] = 20,
    lanes: Annotated[int, typer.Option(min=1, help="Trials that are chosen at a time and trained side by side.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the training and of the search.")] = 0,
    to: Annotated[
        Path | None, typer.Option(help="The file of settings and trials; default: in STORE/tuned, by method and pair.")
    ] = None,
    recipe: AnyRecipe = None,
    set: Set = [],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    teachers: TeacherFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
    teacher_dir: TeacherDir = TEACHERS,
    precision: Precision = "fp32",
    workers: Workers = None,
    allow_teacher_mismatch: Mismatch = False,
    threads: Threads = 1,
    cpu: Cpu = False,
) -> None:
    """Search a method's settings on images held out of the training set, never on the test set.

    The same command goes on where it was stopped. `cakdbench run --settings FILE` trains with what was found.
    """
    from cakdbench.cli.running import Command
    from cakdbench.engine.options import run_options
    from cakdbench.engine.tune import tune as search

    options = run_options(
        settings=[*set, *more],
        method_files=method_file,
        model_files=model_file,
        pairs=pair,
        seeds=(seed,),
        recipe=recipe,
        teacher_files=tuple(teachers),
        store=store,
        data_dir=data_dir,
        dataset_files=tuple(datasets),
        on_bad_image=on_bad_image.value,
        teacher_dir=teacher_dir,
        precision=precision,
        workers=workers,
        allow_teacher_mismatch=allow_teacher_mismatch,
        threads=threads,
        cpu=cpu,
        max_lanes=lanes,
    )
    if options.settings.methods or options.settings.grids:
        raise UsageError("--set takes recipe.* and teacher.* here: fix a method's setting as METHOD[KEY=VALUE]")
    path = to or store / "tuned" / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', f'{method}-{pair}').strip('-')}.toml"
    command = Command(options)
    with command.interrupt, command.progress:
        tuned = search(command.session, method, trials, lanes, path)
    say(f"best of {len(tuned.trials)}: {tuned.label}")
    say(f"written: {path}")
