"""The command about speed: speed."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cakdbench.cli.options import (
    AnyRecipe,
    Cpu,
    DataDir,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    MoreSet,
    Precision,
    Set,
    StoreDir,
    Threads,
    Workers,
    errors,
    say,
)

app = typer.Typer()


@app.command()
def speed(
    pairs: Annotated[str, typer.Option(help="Suites, groups, TEACHER>STUDENT@DATASET; comma-separated.")],
    more: MoreSet = [],
    methods: Annotated[str, typer.Option(help="Methods, METHOD:VARIANT, METHOD[KEY=1|2], or all; they alone.")] = "kd",
    recipe: AnyRecipe = None,
    set: Set = [],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    precision: Precision = "fp32",
    workers: Workers = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the training step.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the NHWC memory layout.")] = False,
    threads: Threads = 1,
    cpu: Cpu = False,
    steps: Annotated[int, typer.Option(min=8, help="Steps of the trainer to time.")] = 40,
    seconds: Annotated[float, typer.Option(help="The most seconds of it; each other series takes a quarter.")] = 20,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Images of noise, also where the data are.")] = False,
    out: Annotated[Path | None, typer.Option(help="A folder for speed.md, speed.json and speed.svg.")] = None,
) -> None:
    """Measure a training step in its parts, the trainer, and its ceiling; what binds, and what lanes save.

    Needs no teachers' weights and no data: what is missing is replaced by noise in its form. The numbers stay in the
    store, and estimates of runs go by them.
    """
    from cakdbench.engine.options import run_options
    from cakdbench.engine.speed.bench import measure_speeds
    from cakdbench.engine.speed.saved import save_speed
    from cakdbench.engine.speed.timing import Limit
    from cakdbench.reports.page_speed import speed_page

    options = run_options(
        methods,
        [*set, *more],
        method_file,
        model_file,
        pairs=pairs,
        recipe=recipe,
        data_dir=data_dir,
        dataset_files=tuple(datasets),
        store=store,
        precision=precision,
        workers=workers,
        compile=compile,
        channels_last=channels_last,
        threads=threads,
        cpu=cpu,
    )
    groups = []
    for group in measure_speeds(options, Limit(steps, seconds), synthetic, partial(say, to=errors)):
        save_speed(store, group)
        groups.append(group.to_json())
        if out:
            _write(out, groups)
    typer.echo(speed_page(groups), nl=False)
    if out:
        say(f"written: {out}/speed.md, speed.json, speed.svg")
    raise typer.Exit(1 if any(group["failed"] for group in groups) else 0)


def _write(folder: Path, groups: list[dict]) -> None:
    """Write the page, the numbers and the plot."""
    from cakdbench.reports.page_speed import draw_speed, speed_page
    from cakdbench.store import write_atomic

    write_atomic(folder / "speed.md", (speed_page(groups) + "\n![Parts of a step](speed.svg)\n").encode())
    write_atomic(folder / "speed.json", (json.dumps(groups, indent=1) + "\n").encode())
    draw_speed(groups, folder / "speed.svg")
