"""The commands about single runs of a store: log, predict, evaluate, export."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import (
    BadImages,
    Cpu,
    DataDir,
    DatasetFiles,
    ModelFiles,
    OnBadImage,
    StoreDir,
    Workers,
    console,
    errors,
    say,
)
from cakdbench.cli.tables import Listing
from cakdbench.utils.errors import CakdError, UsageError
from cakdbench.utils.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from cakdbench.store import RunFolder
    from cakdbench.students.student import Student

app = typer.Typer()
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, its key, or the start of the key.")]

Ema = Annotated[bool, typer.Option("--ema", help="The averaged weights; kept by run --keep ema.")]
POLL_SECONDS = 0.5


class Format(StrEnum):
    """Choose how predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def log(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing while the run goes on.")] = False,
    store: StoreDir = Path("runs"),
) -> None:
    """Print how a run goes, or went: its losses, accuracies, speed and the time left."""
    from cakdbench.engine.run_log import log_file
    from cakdbench.store import Store

    folder = Store(store).find(run)
    path = log_file(folder.path)
    if not path.is_file():
        reason = folder.failure() or "it has not begun, or is of an earlier cakdbench"
        raise UsageError(f"{folder.key} has no log: {reason}")
    _print_log(path, folder if follow else None)


@app.command()
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes an image, the likeliest first.")] = 5,
    format: Annotated[Format, typer.Option("--format", help="How to print them.")] = Format.table,
    ema: Ema = False,
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Print what the student of a finished run sees on images."""
    from cakdbench.results.export import frame_text
    from cakdbench.students.predict import predict as predict_images

    frame = predict_images(_student(run, ema, model_file, store, data_dir), images, top)
    if format is not Format.table:
        print(printable(frame_text(frame, format)), end="")
        return
    rows = frame.assign(probability=frame["probability"].map("{:.2%}".format)).drop(columns="rank").to_dict("records")
    console.print(Listing(rows, right=["index", "probability"]))


@app.command()
def evaluate(
    runs: Annotated[
        list[str], typer.Argument(help="Runs: folders, keys, or starts of keys; or one store for all of its runs.")
    ],
    corruption: Annotated[
        list[str], typer.Option(help="gaussian_noise, shot_noise or impulse_noise; KIND:SEVERITY, KIND=STRENGTH.")
    ] = [],
    dataset: Annotated[str | None, typer.Option(help="Another dataset whose classes have the same names.")] = None,
    format: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A CSV file to write too.")] = None,
    ema: Ema = False,
    cpu: Cpu = False,
    workers: Workers = None,
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    on_bad_image: BadImages = OnBadImage.refuse,
) -> None:
    """Test finished runs again: on their test images, corrupted ones, or another dataset."""
    from cakdbench.results.export import frame_text
    from cakdbench.store import write_atomic
    from cakdbench.students.evaluate import evaluate_students
    from cakdbench.utils.corruptions import parse_corruptions
    from cakdbench.utils.device import make_accelerator

    noises = parse_corruptions(corruption)
    failed: dict[str, CakdError] = {}
    students = _students(_all_runs(runs, store), ema, model_file, data_dir, failed)
    frame = evaluate_students(
        students,
        noises,
        dataset,
        data_dir=data_dir,
        on_bad_image=on_bad_image.value,
        accelerator=make_accelerator(cpu=cpu),
        workers=workers or 0,
        failed=failed,
    )
    if len(frame):
        _print_accuracies(frame, format)
    if len(frame) and output:
        write_atomic(output, frame_text(frame, "csv").encode())
    keys: dict[str, list[str]] = {}
    for key, error in failed.items():
        keys.setdefault(str(error), []).append(key)
    for reason, names in keys.items():
        told = f"failed: {', '.join(names)}: {reason}"
        say(told, errors, style="red")
    raise typer.Exit(1 if failed else 0)


def _print_accuracies(frame: "pd.DataFrame", format: Format) -> None:
    from cakdbench.results.export import frame_text

    if format is not Format.table:
        print(printable(frame_text(frame, format)), end="")
        return
    digits = {name: frame[name].map("{:.2f}".format) for name in ("top1", "drop", "top5")}
    rows = frame.assign(key=frame["key"].str.rpartition("-")[2].str[:8], **digits).astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    console.print(Listing(rows, right=["seed", "severity", "strength", "top1", "drop", "top5"]))


def _all_runs(names: list[str], store: Path) -> "list[RunFolder]":
    """Return the runs that are named, each once; a store stands for all of its finished ones."""
    from cakdbench.store import Store

    named = ([run for run in Store(Path(name)).runs() if run.is_done] or [Store(store).find(name)] for name in names)
    return list({run.key: run for runs in named for run in runs}.values())


def _students(
    runs: "list[RunFolder]", ema: bool, model_files: list[Path], data_dir: Path | None, failed: dict[str, CakdError]
) -> "list[Student]":
    """Return the students of runs; `failed` gets why others have none."""
    from cakdbench.students.student import load_student

    load_files([], model_files)
    students = []
    for run in runs:
        try:
            students.append(load_student(run, ema, data_dir))
        except CakdError as error:
            failed[run.key] = error
    return students


@app.command()
def export(
    run: Run,
    to: Annotated[Path, typer.Option("--to", help="The folder to write: a new or an empty one, or an earlier export.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write model.onnx too; needs the extra cakdbench[onnx].")
    ] = False,
    ema: Ema = False,
    model_file: ModelFiles = [],
    license: Annotated[str, typer.Option(help="The licence that the card states.")] = "unknown",
    store: StoreDir = Path("runs"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Write the student of a finished run for others: weights and config that timm loads, a card, ONNX."""
    from cakdbench.students.export import export_student

    reason = export_student(_student(run, ema, model_file, store, data_dir), to, onnx, license)
    for path in sorted(to.iterdir()):
        say(f"written: {path}")
    how = f'timm.create_model("local-dir:{to}", pretrained=True)'
    text = f"{reason}: the weights are written without a config.json, see README.md" if reason else f"load it: {how}"
    say(text)


def _student(run: str, ema: bool, model_files: list[Path], store: Path, data_dir: Path | None) -> "Student":
    from cakdbench.store import Store
    from cakdbench.students.student import load_student

    load_files([], model_files)
    return load_student(Store(store).find(run), ema, data_dir)


def _print_log(path: Path, running: "RunFolder | None") -> None:
    """Print a log; with `running` until that run runs no more."""
    with open(path, encoding="utf-8", errors="replace") as file:
        going = True
        while going:
            going = running is not None and running.state() == "running"
            say(file.read(), end="")
            time.sleep(POLL_SECONDS if going else 0)
