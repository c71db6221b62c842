"""The command about costs: cost."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_files
from cakdbench.cli.options import DataDir, DatasetFiles, MethodFiles, ModelFiles, errors, say

if TYPE_CHECKING:
    import pandas as pd

    from cakdbench.grid.suites import PairSpec

app = typer.Typer()


class Format(StrEnum):
    markdown = "markdown"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


@app.command()
def cost(
    methods: Annotated[str, typer.Option(help="Methods, METHOD:VARIANT, METHOD[KEY=1|2], or all.")] = "all",
    pairs: Annotated[
        str, typer.Option(help="Suites, TEACHER>STUDENT@DATASET; comma-separated. Default: the pairs of costs.md.")
    ] = "",
    recipe: Annotated[str | None, typer.Option(help="A recipe for all pairs instead of each pair's own.")] = None,
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    classes: Annotated[int | None, typer.Option(min=1, help="Classes of both models; default: the dataset's.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Add what its runs measured: speed, memory, time, energy.")
    ] = None,
    data_dir: DataDir = None,
    datasets: DatasetFiles = [],
    format: Annotated[Format, typer.Option(help="How the table is written.")] = Format.markdown,
    output: Annotated[Path | None, typer.Option(help="Write the table to a file instead.")] = None,
) -> None:
    """Count parameters, multiply-adds and memory that methods add on pairs, without training."""
    from cakdbench.costs.frame import count_costs
    from cakdbench.costs.papers import PAIRS
    from cakdbench.grid.suites import resolve_pairs
    from cakdbench.reports.page_costs import methods_board
    from cakdbench.reports.pages import FORMATS
    from cakdbench.store import write_atomic

    load_files(method_file, model_file)
    pairs = pairs or ",".join(PAIRS)
    with errors.status("counting"):
        costs = count_costs(methods, pairs, recipe, classes, data_dir, memory=True)
    if store is not None:
        measured = _measured(store, resolve_pairs(pairs, recipe), data_dir)
        costs = costs.merge(measured.drop(columns="recipe"), "left", ["method", "pair"])
    if format is Format.csv:
        text = costs.to_csv(index=False, lineterminator="\n")
    elif format is Format.json:
        text = costs.to_json(orient="records", indent=2, force_ascii=False)
    else:
        text = FORMATS[{"markdown": "md", "latex": "tex"}.get(format, format)](methods_board(costs))
    text = text.rstrip("\n") + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text.encode())
        say(f"written: {output}")


def _measured(store: Path, specs: list["PairSpec"], data_dir: Path | None) -> "pd.DataFrame":
    """Return what standard runs of the store measured; damaged runs are told of on stderr."""
    import pandas as pd

    from cakdbench.reports.links import name_links
    from cakdbench.reports.standard import Standard, column_of
    from cakdbench.results.frame import measured_frame
    from cakdbench.store import Store

    records, damage = Store(store).records()
    for sentence in damage:
        say(sentence, errors, style="yellow")
    rules, frames = Standard(data_dir), []
    for spec in specs:
        column = column_of(spec, data_dir=data_dir)
        named = name_links(records, [column])
        standard = [r for r in named if column.concerns(r) and not rules.differences(r, column)]
        # Runs without a teacher belong to every pair of their student.
        frames.append(measured_frame(standard).assign(pair=str(spec.pair)))
    return pd.concat(frames, ignore_index=True)
