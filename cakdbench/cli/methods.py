"""The commands about methods: list, explain, check, new."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cakdbench.cli.options import CardPair, MethodFiles, ModelFiles, TeacherFiles, console, say
from cakdbench.cli.tables import AsFormat, Layout, print_rows
from cakdbench.utils.errors import UsageError

app = typer.Typer()


class Listing(StrEnum):
    methods = "methods"
    pairs = "pairs"
    experiments = "experiments"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"
    teachers = "teachers"


@app.command("list")
def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.")],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    teachers: TeacherFiles = [],
    variants: Annotated[bool, typer.Option("--variants", help="With methods: list their variants.")] = False,
    pair: CardPair = "swin_t>resnet18@cifar100",
    format: AsFormat = Layout.table,
) -> None:
    """List what can be named on the command line."""
    from cakdbench.cli import cards, listing

    load_files(method_file, model_file)
    if what is Listing.methods:
        rows = cards.all_variants() if variants else cards.all_methods(pair)
    else:
        rows = listing.teachers(teachers) if what is Listing.teachers else getattr(listing, what.value)()
    print_rows(console, rows, format)


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="A method's id or alias.")],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    pair: CardPair = "swin_t>resnet18@cifar100",
) -> None:
    """Show a method's card: formula, settings and their sources, deviations from paper and code, variants."""
    from cakdbench.cli import cards
    from cakdbench.registry import split_variant

    load_files(method_file, model_file)
    for part in cards.explanation(split_variant(method)[0], pair):
        console.print(part, highlight=False)
        console.print()


@app.command()
def check(
    methods: Annotated[str, typer.Argument(help="Methods, METHOD:VARIANT, Python files of your own, or all.")],
    method_file: MethodFiles = [],
    model_file: ModelFiles = [],
    processes: Annotated[bool, typer.Option(help="Also train with two processes.")] = True,
) -> None:
    """Check on small models, in under a minute a method, that it keeps the contract; or networks of your own."""
    import torch

    from cakdbench.checks import check_method, findings_table
    from cakdbench.checks.lab import Lab
    from cakdbench.checks.network import check_network
    from cakdbench.registry import split_variant

    torch.set_num_threads(1)
    files, failed = [*method_file], False
    load_files(method_file, model_file)
    labels, networks = _to_check(methods, files)
    for name in networks:
        findings = list(check_network(name))
        console.print(findings_table(name, findings))
        failed |= not all(finding.passed for finding in findings)
    for name in labels:
        lab = Lab(*split_variant(name))
        with console.status(Text(f"checking {name}")):
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
    from cakdbench.cli.scaffold import write_method

    method, test = write_method(name, folder)
    say(
        f"wrote {method} and {test}\n\nnext:\n"
        f"  edit {method}: the loss, the settings, the card in the docstring\n"
        f"  cakdbench check {method}\n"
        f"  pytest {test}\n"
        f"  cakdbench run --method-file {method} --methods {name} --pairs demo"
    )


def load_files(methods: list[Path], models: list[Path]) -> None:
    """Register the methods and networks of files; without any, torch is not waited for."""
    if methods or models:
        from cakdbench import registry

        registry.load_files(methods, models)


def _to_check(names: str, files: list[Path]) -> tuple[list[str], list[str]]:
    """Return labels and networks; a file stands for what it registers, and joins `files` if that is methods."""
    from cakdbench.registry import load_any, methods_named

    labels: list[str] = []
    networks: list[str] = []
    for name in methods_named(names):
        if not name.endswith(".py"):
            labels.append(name)
            continue
        methods, models = load_any(Path(name))
        labels, networks = [*labels, *methods], [*networks, *models]
        files += [Path(name)] if methods else []
    if not labels and not networks:
        raise UsageError("name a method, a Python file that registers methods or networks, or all")
    return labels, networks
