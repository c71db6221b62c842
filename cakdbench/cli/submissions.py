"""The commands about results: submit them, validate those of others."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import DataDir, DatasetFiles, MethodFiles, ModelFiles, Results, StoreDir, console, say
from cakdbench.cli.tables import Listing
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cakdbench.submissions.findings import Finding
    from cakdbench.submissions.validate import Report

app = typer.Typer()


@app.command()
def submit(
    runs: Annotated[list[str], typer.Argument(help="Keys of runs, beginnings of keys, run folders, or all.")],
    by: Annotated[str, typer.Option("--by", help="Who submits: a name, a group, a handle.")],
    store: StoreDir = Path("runs"),
    results: Results = Path("leaderboards/results"),
    paper: Annotated[str | None, typer.Option(help="Address (https) of the method's paper.")] = None,
    code: Annotated[str | None, typer.Option(help="Address (https) of the method's code.")] = None,
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
) -> None:
    """Check finished runs and write them as entries of the leaderboards."""
    from cakdbench.store import Store
    from cakdbench.submissions.submit import Submitter, find_runs
    from cakdbench.submissions.submit import submit as write_entries

    load_files(method_file, model_file)
    chosen = find_runs(runs, Store(store))
    done = write_entries(chosen, results, Submitter(by, paper, code), data_dir)
    for fault in done.damaged:
        say(f"left out: {fault}")
    _print_findings(done.findings)
    if any(finding.refused for finding in done.findings):
        say("nothing was written")
        raise typer.Exit(1)
    for key in done.there:
        say(f"already there: {key}")
    for path in done.written:
        say(f"wrote {path}")
    if done.written:
        folders = f"{results} {results.parent / 'labels'}"
        say(
            f"\nnext:\n  cakdbench validate {results}\n  git add {folders} and commit\n"
            "  open a pull request; CONTRIBUTING.md says what happens then"
        )
    raise typer.Exit(1 if done.damaged else 0)


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(help="A results folder, a method's folder, or one entry.")],
    labels: Annotated[
        Path | None, typer.Option(help="Folder of test labels; default: `labels` beside the results folder.")
    ] = None,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    base: Annotated[
        str | None,
        typer.Option(help="The results these were made from, folder or git revision; only what differs is checked."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    require_rescoring: Annotated[
        bool, typer.Option("--require-rescoring", help="Fail if an entry's test labels are not at hand.")
    ] = False,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="For maintainers: list what passed, and was re-scored, in status.toml; "
            "an entry with an unlikely number only if PATH is its own file.",
        ),
    ] = False,
) -> None:
    """Check submitted results; nothing of them is executed, and no file outside of their folder is read."""
    from cakdbench.submissions.examine import Crew
    from cakdbench.submissions.truth import Truth
    from cakdbench.submissions.validate import accept as accept_entries
    from cakdbench.submissions.validate import results_root
    from cakdbench.submissions.validate import validate as check
    from cakdbench.utils.device import usable_cores

    load_files(method_file, model_file)
    root, _ = results_root(path)
    if labels is not None and not labels.is_dir():
        raise UsageError(f"--labels {labels}: no such folder")
    truth = Truth(labels or root.parent / "labels", data_dir, trusted=labels is not None)
    crew = Crew(jobs or usable_cores(), method_file, model_file, datasets)
    report = check(path, truth, base=base, crew=crew)
    _print_findings(report.findings)
    _print_summary(report)
    if accept:
        count = accept_entries(root, report, datetime.now(UTC).date().isoformat(), doubtful=path.is_file())
        say(f"accepted: {count} new entries in {root / 'status.toml'}")
    missing = require_rescoring and bool(report.not_rescored)
    raise typer.Exit(1 if report.refused or missing else 0)


def _print_findings(findings: "Iterable[Finding]") -> None:
    for finding in findings:
        say(f"{'refused' if finding.refused else 'note'}: {finding}")


def _print_summary(report: "Report") -> None:
    rows = [
        {
            "entry": line.file,
            "top-1 in %": f"{line.top1:.2f}",
            "status": line.status,
            "re-scored now": "yes" if line.rescored else "no",
            "unlikely": "; ".join(line.doubts) or None,
        }
        for line in report.lines
    ]
    console.print(Listing(rows, prose=["unlikely"]))
    if report.unchanged:
        say(f"{report.unchanged} entries are those of the base, and were not checked again")
    if report.not_rescored:
        count = len(report.not_rescored)
        say(f"{count} entries were not re-scored: their test labels are not at hand (--labels, --data-dir)")
    refused = len({finding.file for finding in report.refused})
    say(f"{len(report.lines)} entries passed, {refused} files refused")
