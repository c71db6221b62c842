"""Every generated file of the leaderboards: made from records and printed numbers alone, written, or found stale."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group

from cakdbench.grid.experiments import experiment_names, load_experiment
from cakdbench.grid.suites import OTHER, PairSpec, Suite, suites
from cakdbench.records import Record
from cakdbench.reports.blocks import BoardResults, board_results
from cakdbench.reports.board import PLOTS, Board, Plot
from cakdbench.reports.csv import board_csv
from cakdbench.reports.html import board_html
from cakdbench.reports.latex import board_latex
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_conflicts import conflicts_board
from cakdbench.reports.page_costs import costs_board
from cakdbench.reports.page_experiment import FOLDER, experiment_board
from cakdbench.reports.page_reproduction import reproduction_board
from cakdbench.reports.plots import plot_digest
from cakdbench.reports.sections import board_of
from cakdbench.reports.standard import Standard, board_columns
from cakdbench.reports.terminal import board_terminal
from cakdbench.results.load import Evidence
from cakdbench.store import write_atomic

FORMATS: Mapping[str, Callable[[Board], str]] = {
    "md": board_markdown,
    "html": board_html,
    "csv": board_csv,
    "tex": board_latex,
}
"""Ending of a board's file to what writes it."""
BY_HAND = {"RULES.md", "README.md"}
"""Pages of the folder that nothing generates."""


def pages(
    results: Sequence[BoardResults], evidence: Evidence, formats: Iterable[str] = ("md",), general: bool = True
) -> Iterator[tuple[str, str | Plot]]:
    """Yield path and content of the files of boards, one a format, and for `md` the plots beside it, not yet drawn.

    Args:
        general: with the pages that belong to no single board.
    """
    boards = [board_of(result) for result in results]
    if general:
        boards += [reproduction_board(results), conflicts_board(), costs_board(evidence.settled)]
        boards += experiment_boards(evidence)
    return _files(boards, formats)


def experiment_boards(evidence: Evidence) -> Iterator[Board]:
    """Yield the page of every experiment."""
    return (experiment_board(load_experiment(name), evidence) for name in experiment_names())


def _files(boards: Iterable[Board], formats: Iterable[str]) -> Iterator[tuple[str, str | Plot]]:
    for board in boards:
        for ending in formats:
            yield f"{board.name}.{ending}", FORMATS[ending](board)
            if ending == "md":
                yield from ((f"{PLOTS}/{plot.name}", plot) for section in board.sections for plot in section.plots)


def suite_board(name: str, evidence: Evidence, known: Iterable[Suite] | None = None) -> BoardResults:
    """Return the results of the board of that name, titled by its file or as the largest of its suites.

    Args:
        known: the suites; default: those that come with cakdbench.
    """
    members = [suite for suite in known or suites().values() if suite.board == name]
    largest = max(members, key=lambda suite: len(suite.specs))
    columns, title = board_columns(members, name, evidence.data_dir), largest.board_title or largest.title
    facts = evidence.records, Standard(evidence.data_dir), evidence.answers_by_key
    return board_results(name, title, columns, *facts, evidence.statuses, evidence.external)


def board_names(
    evidence: Evidence, specs: Iterable[PairSpec] | None, known: Iterable[Suite] | None = None
) -> list[str]:
    """Return the boards of some pairs; of no pairs in particular: those with printed numbers or with a run."""
    known = list(known or suites().values())
    if specs is not None:
        chosen = set(specs)
        return list(dict.fromkeys(suite.board for suite in known if chosen.intersection(suite.specs)))
    printed = {suite.board for suite in known if suite.protocol}
    names = dict.fromkeys(suite.board for suite in known)
    return [name for name in names if name in printed or concerns_any(name, evidence.records, known)]


def concerns_any(name: str, records: Iterable[Record], known: Iterable[Suite] | None = None) -> bool:
    """Return True for a board with a pair that any of the records is a run of."""
    columns = board_columns(known or suites().values(), name)
    return any(column.concerns(record) for record in records for column in columns)


def write_boards(
    evidence: Evidence,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    formats: Iterable[str] = ("md",),
    own: Iterable[Suite] = (),
) -> set[str]:
    """Write boards and their plots, print those with runs, and return the keys of the runs that count on them.

    Args:
        specs: their boards are written; those on no board are a board `other`. None: every board with printed
            numbers or runs, and the pages on reproduction, conflicts and costs.
        folder: where the pages go.
        formats: md, html, csv, tex.
        own: suites that do not come with cakdbench; their boards have the pairs that they name.

    Raises:
        StoreError: a page cannot be written.
    """
    boards = _boards(evidence, specs, console, own)
    for board in boards:
        if any(block.records for block in board.blocks):
            console.print(Group(*board_terminal(board_of(board), console.width)))
    _write(pages(boards, evidence, formats, general=specs is None), folder, console)
    return {record.key for board in boards for block in board.blocks for record in block.records}


def write_experiments(
    boards: Iterable[Board], folder: Path, console: Console, formats: Iterable[str] = ("md",)
) -> None:
    """Write pages of experiments into `papers/` of a folder, and print those with runs.

    Raises:
        StoreError: a page cannot be written.
    """
    for board in boards:
        if any(section.brief for section in board.sections):
            console.print(Group(*board_terminal(board, console.width)))
        _write(_files([board], formats), folder, console)


def _write(files: Iterable[tuple[str, str | Plot]], folder: Path, console: Console) -> None:
    for name, content in files:
        path = folder / name
        if isinstance(content, str):
            write_atomic(path, content.encode())
            console.print(f"written: {path}", markup=False, highlight=False)
        elif any(_diff(name, content, path)):
            write_atomic(path, content.draw().encode())


def _boards(
    evidence: Evidence, specs: Iterable[PairSpec] | None, console: Console, own: Iterable[Suite]
) -> list[BoardResults]:
    """Return the results of the boards, after a warning for each file that cannot be read."""
    for sentence in evidence.damage:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
    own, shipped = list(own), list(suites().values())
    claimed = {spec for suite in own for spec in suite.specs}
    rest = None if specs is None else [spec for spec in specs if spec not in claimed]
    free = tuple(spec for spec in rest or () if not any(spec in suite.specs for suite in shipped))
    known = [*own, *shipped, Suite(OTHER, "Pairs and recipes of no board", OTHER, free)]
    names = dict.fromkeys([*(suite.board for suite in own), *board_names(evidence, rest, known)])
    return [suite_board(name, evidence, known) for name in names]


def check_boards(
    evidence: Evidence,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    own: Iterable[Suite] = (),
) -> bool:
    """Print what is stale in a folder of boards, as a diff; return True if nothing is.

    Arguments as for `write_boards`. A picture is judged by the numbers it was drawn from, as its bytes depend on the
    version of matplotlib.
    """
    boards = _boards(evidence, specs, console, own)
    current = dict(pages(boards, evidence, general=specs is None))
    stale = [line for name, content in current.items() for line in _diff(name, content, folder / name)]
    if specs is None:
        stale += _strays(current, folder)
    for line in stale:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return not stale and not evidence.damage


def _strays(current: Iterable[str], folder: Path) -> Iterator[str]:
    paths = [*folder.glob("*.md"), *folder.glob(f"{FOLDER}/*.md"), *folder.glob(f"{PLOTS}/*.svg")]
    names = {path.relative_to(folder).as_posix() for path in paths}
    for name in sorted(names - {*current} - BY_HAND):
        yield f"{name}: nothing generates this; delete it"


def _diff(name: str, content: str | Plot, path: Path) -> Iterator[str]:
    """Yield what is stale in a file, a line each; nothing if it is current."""
    if not path.is_file():
        yield f"{name}: missing; `cakdbench leaderboard` writes it"
    elif isinstance(content, str):
        # The parts between line feeds differ in any byte that differs, as a carriage return.
        old, new = path.read_bytes().decode(errors="replace").split("\n"), content.split("\n")
        yield from difflib.unified_diff(old, new, f"{name} (as it is)", f"{name} (as it should be)", lineterm="")
    elif plot_digest(path.read_text(errors="replace")) != content.digest:
        yield f"{name}: drawn from other numbers; `cakdbench leaderboard` draws it anew"
