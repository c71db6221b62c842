"""The commands about results: leaderboard, migrate, diff, results, explain-run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import (
    Boards,
    DataDir,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    StoreDir,
    console,
    say,
)
from cakdbench.utils.errors import UsageError
from cakdbench.utils.text import printable

if TYPE_CHECKING:
    from cakdbench.results.load import Evidence

app = typer.Typer()
Thing = Annotated[str, typer.Argument(help="A recipe, a run's key or the start of it, or a protocol of papers.")]


@app.command()
def leaderboard(
    pairs: Annotated[
        str, typer.Option(help="Suites, or TOML files of your own, whose boards are written; default: every page.")
    ] = "",
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    results: Results = Path("leaderboards/results"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    boards: Boards = Path("leaderboards"),
    experiments: Annotated[
        bool, typer.Option("--experiments", help="Write the pages of the papers' tables alone.")
    ] = False,
    formats: Annotated[str, typer.Option(help="Of md, html, csv, tex; comma-separated.")] = "md",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 with a diff if a page is not what the results give.")
    ] = False,
) -> None:
    """Write the boards anew from submitted results, own runs and published numbers.

    With --check only submitted results count: these and the pages are what a repository holds.
    """
    from cakdbench.grid.suites import own_suites, resolve_pairs
    from cakdbench.reports.pages import check_boards, experiment_boards, write_boards, write_experiments
    from cakdbench.submissions.status import sure_verdicts

    load_files(method_file, model_file)
    if not check:
        sure_verdicts(results)  # boards without statuses would rank nobody
    if experiments:
        if pairs or check:
            raise UsageError("--experiments writes their pages alone: leave --pairs out; --check looks at all pages")
        evidence = _evidence(store, results, data_dir)
        write_experiments(experiment_boards(evidence), boards, console, _formats(formats))
        return
    specs, own = resolve_pairs(pairs) if pairs else None, own_suites(pairs)
    if check:
        fresh = check_boards(_evidence(None, results, data_dir), specs, boards, console, own)
        console.print("every page is current" if fresh else "stale: run `cakdbench leaderboard`", highlight=False)
        raise typer.Exit(0 if fresh else 1)
    write_boards(_evidence(store, results, data_dir), specs, boards, console, _formats(formats), own)


@app.command()
def migrate(
    folders: Annotated[list[Path], typer.Argument(help="Stores and results folders of an earlier cakdbench.")],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
) -> None:
    """Give runs of an earlier cakdbench, or of a method now built in, their present keys; nothing is trained."""
    from cakdbench.results.migrate import migrate as migrate_folder

    load_files(method_file, model_file)
    for folder in folders:
        runs = list(migrate_folder(folder))
        for run in runs:
            say(f"{run.old}: {run.new or run.reason}")
        changed = sum(run.new is not None for run in runs)
        summary = (
            f"{folder}: {changed} given their present keys, {len(runs) - changed} left; all others have them already"
        )
        say(summary)


@app.command()
def diff(
    first: Thing,
    second: Thing,
    store: StoreDir = Path("runs"),
    results: Results = Path("leaderboards/results"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Show what differs between two recipes, two runs, or one of them and a published protocol."""
    from cakdbench.reports.difference import difference_table, subject

    evidence = _evidence(store, results, data_dir)
    console.print(difference_table(subject(first, evidence), subject(second, evidence), evidence))


@app.command("results")
def show_results(
    paths: Annotated[
        list[Path], typer.Argument(help="Stores, results folders, run folders, entries. Default: all that is here.")
    ] = [],
    format: Annotated[
        str | None, typer.Option("--format", help="csv, json, md or parquet; default: by the file's ending, else csv.")
    ] = None,
    where: Annotated[str, typer.Option(help="Which rows, as in \"method == 'fbt' and seed < 3\".")] = "",
    cells: Annotated[
        bool, typer.Option("--cells", help="A row a cell (means over seeds) instead of a row a run.")
    ] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="A row a run and corruption of its recipe instead of a row a run.")
    ] = False,
    columns: Annotated[str, typer.Option(help="Which columns, comma-separated; default: all but path.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; default: print.")] = None,
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Print finished runs, the cells they make, or their accuracies under noise, as a table for other programs."""
    from cakdbench import load_results, robustness, summarize
    from cakdbench.results import export
    from cakdbench.store import write_atomic

    if cells and corruptions:
        raise UsageError("--cells and --corruptions are two tables: choose one")
    form = export.format_of(format, output)
    load_files(method_file, model_file)
    frame = load_results(*paths, data_dir=data_dir)
    frame = summarize(frame, data_dir) if cells else robustness(frame) if corruptions else frame
    frame = export.choose_rows(frame, where) if where else frame
    frame = export.choose_columns(frame, columns) if columns else frame.drop(columns="path", errors="ignore")
    if output is None:
        print(printable(export.frame_text(frame, form)), end="")
    else:
        write_atomic(output, export.frame_bytes(frame, form))
        say(f"written: {output} ({len(frame)} rows)")


@app.command("explain-run")
def explain_run(
    run: Annotated[str, typer.Argument(help="The run's key, or the start of it.")],
    pairs: Annotated[str, typer.Option(help="TOML files of your own, on whose boards it may stand too.")] = "",
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    store: StoreDir = Path("runs"),
    results: Results = Path("leaderboards/results"),
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Show where a run comes from, how it was made, and why it is or is not on a board."""
    from cakdbench.grid.suites import own_suites
    from cakdbench.reports import explain as provenance
    from cakdbench.results.load import find_run

    load_files(method_file, model_file)
    evidence = _evidence(store, results, data_dir)
    for part in provenance.explain_run(find_run(run, evidence), evidence, own_suites(pairs)):
        console.print(part, highlight=False)


def _evidence(store: Path | None, results: Path, data_dir: Path | None) -> "Evidence":
    from cakdbench.results.load import Evidence
    from cakdbench.store import Store

    return Evidence(None if store is None else Store(store), results, data_dir)


def _formats(text: str) -> list[str]:
    from cakdbench.reports.pages import FORMATS

    formats = [part.strip() for part in text.split(",")]
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--formats {name!r}: choose from {', '.join(FORMATS)}")
    return formats
