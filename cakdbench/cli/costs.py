"""The command about costs: cost."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cakdbench.cli.methods import load_methods
from cakdbench.cli.options import DataDir, MethodFiles, console, errors
from cakdbench.utils.errors import UsageError

if TYPE_CHECKING:
    from cakdbench.costs.measured import Measured
    from cakdbench.grid.suites import PairSpec

app = typer.Typer()


class Format(StrEnum):
    markdown = "markdown"
    csv = "csv"
    latex = "latex"


@app.command()
def cost(
    methods: Annotated[str, typer.Option(help="Methods, METHOD:VARIANT, METHOD[KEY=1|2], or all.")] = "all",
    pairs: Annotated[
        str, typer.Option(help="Suites, TEACHER>STUDENT@DATASET; comma-separated. Default: the pairs of costs.md.")
    ] = "",
    recipe: Annotated[str | None, typer.Option(help="A recipe for all pairs instead of each pair's own.")] = None,
    method_file: MethodFiles = [],
    classes: Annotated[int | None, typer.Option(min=1, help="Classes of both models; default: the dataset's.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Add what its runs measured: speed, memory, time, energy.")
    ] = None,
    data_dir: DataDir = None,
    format: Annotated[Format, typer.Option(help="How the table is written.")] = Format.markdown,
    output: Annotated[Path | None, typer.Option(help="Write the table to a file instead.")] = None,
) -> None:
    """Count parameters, multiply-adds and memory that methods add on pairs, without training."""
    from cakdbench.costs import tables
    from cakdbench.costs.method_costs import method_costs
    from cakdbench.costs.papers import PAIRS
    from cakdbench.grid.plan import full_label
    from cakdbench.grid.suites import resolve_pairs
    from cakdbench.registry import methods_named
    from cakdbench.store import write_atomic

    load_methods(method_file)
    specs = resolve_pairs(pairs or ",".join(PAIRS), recipe)
    labels = list(dict.fromkeys(map(full_label, methods_named(methods))))
    if not labels:
        raise UsageError("no methods named; give --methods a list of them, or all")
    measured = None if store is None else _measured(store, labels, specs, data_dir)
    with errors.status("counting"):
        sheet = tables.cost_sheet(method_costs(labels, specs, classes, data_dir), measured)
    write = {Format.markdown: tables.markdown, Format.csv: tables.csv_text, Format.latex: tables.latex}[format]
    text = write(sheet).rstrip("\n") + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text.encode())
        console.print(f"written: {output}", markup=False, highlight=False, soft_wrap=True)


def _measured(
    store: Path, labels: list[str], specs: list["PairSpec"], data_dir: Path | None
) -> dict[tuple[str, str], list["Measured"]]:
    """What standard runs of the store measured, by label and pair."""
    from cakdbench.costs.measured import measured
    from cakdbench.reports.eligibility import Standard, column_of
    from cakdbench.store import Store

    records, damage = Store(store).records()
    for sentence in damage:
        errors.print(sentence, style="yellow", markup=False, highlight=False)
    rules, found = Standard(data_dir), {}
    for spec in specs:
        column = column_of(spec, data_dir=data_dir)
        for label in labels:
            own = [r for r in records if r.label == label and column.concerns(r)]
            standard = [record for record in own if not rules.differences(record, column)]
            found[label, str(spec.pair)] = measured(standard)
    return found
