"""Write the boards, or say which of the written ones are stale."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from cakdbench.grid.suites import PairSpec, suites
from cakdbench.reports.blocks import BoardResults, board_results
from cakdbench.reports.board import PLOTS, Plot
from cakdbench.reports.eligibility import Standard, column_of
from cakdbench.reports.pages import Page, board_names, board_pages, general_pages, suite_board
from cakdbench.reports.plots import plot_digest
from cakdbench.reports.sections import board_of
from cakdbench.reports.terminal import BoardView
from cakdbench.results.load import Evidence
from cakdbench.store import write_atomic

BY_HAND = {"RULES.md", "README.md"}
"""Pages of the folder that nothing generates."""


def write_boards(
    evidence: Evidence,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    data_dir: Path | None = None,
    formats: Iterable[str] = ("md",),
) -> None:
    """Write boards and their plots, and print those with runs.

    Args:
        specs: their boards are written; those on no board are printed as a table of their own. None: every
            board with printed numbers or runs, and the pages on reproduction, conflicts and costs.
        folder: where the pages go.
        data_dir: where the datasets lie; only for pairs on `timm:` datasets.
        formats: md, html, csv, tex.

    Raises:
        StoreError: a page cannot be written.
    """
    _tell_damage(evidence, console)
    boards = _boards(evidence, specs, data_dir)
    for board in boards:
        if any(block.records for block in board.blocks):
            console.print(BoardView(board_of(board)))
    for page in _pages(boards, evidence, formats, general=specs is None):
        path = folder / page.path
        if not isinstance(page.source, Plot) or _is_stale(page, path):
            write_atomic(path, page.text.encode())
        if path.suffix != ".svg":
            console.print(f"written: {path}", markup=False, highlight=False)
    _print_free(evidence, specs, console, data_dir)


def _boards(evidence: Evidence, specs: Iterable[PairSpec] | None, data_dir: Path | None) -> list[BoardResults]:
    known, rules = list(suites().values()), Standard(data_dir)
    return [suite_board(name, known, evidence, rules) for name in board_names(evidence, known, specs)]


def _pages(boards: list[BoardResults], evidence: Evidence, formats: Iterable[str], general: bool) -> Iterator[Page]:
    for board in boards:
        yield from board_pages(board, formats)
    if general:
        yield from general_pages(boards, evidence.records, formats)


def _print_free(evidence: Evidence, specs: Iterable[PairSpec] | None, console: Console, data_dir: Path | None) -> None:
    free = [spec for spec in specs or () if not any(spec in suite.specs for suite in suites().values())]
    if free:
        columns, rules = [column_of(spec, data_dir=data_dir) for spec in free], Standard(data_dir)
        title = "Pairs and recipes of no board"
        results = board_results("", title, columns, evidence.records, rules, evidence.answers_by_key)
        console.print(BoardView(board_of(results)))


def check_boards(
    evidence: Evidence,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    data_dir: Path | None = None,
) -> bool:
    """Print what is stale in a folder of boards, as a diff; return True if nothing is.

    Arguments as for `write_boards`. A picture is judged by the numbers it was drawn from, as its bytes depend on the
    version of matplotlib.
    """
    _tell_damage(evidence, console)
    boards = _boards(evidence, specs, data_dir)
    pages = list(_pages(boards, evidence, ["md"], general=specs is None))
    stale = [line for page in pages if _is_stale(page, folder / page.path) for line in _diff(page, folder)]
    if specs is None:
        stale += _strays(pages, folder)
    for line in stale:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return not stale and not evidence.damage


def _strays(pages: Iterable[Page], folder: Path) -> Iterator[str]:
    paths = [*folder.glob("*.md"), *folder.glob(f"{PLOTS}/*.svg")]
    names = {path.relative_to(folder).as_posix() for path in paths}
    for name in sorted(names - {page.path for page in pages} - BY_HAND):
        yield f"{name}: nothing generates this; delete it"


def _is_stale(page: Page, path: Path) -> bool:
    if not path.is_file():
        return True
    if isinstance(page.source, Plot):
        return plot_digest(path.read_text(errors="replace")) != page.source.digest
    return path.read_bytes() != page.text.encode()


def _diff(page: Page, folder: Path) -> Iterator[str]:
    path = folder / page.path
    if not path.is_file():
        yield f"{page.path}: missing; `cakdbench leaderboard` writes it"
    elif isinstance(page.source, Plot):
        yield f"{page.path}: drawn from other numbers; `cakdbench leaderboard` draws it anew"
    else:
        old, new = path.read_text(errors="replace").splitlines(), page.text.splitlines()
        yield from difflib.unified_diff(
            old, new, f"{page.path} (as it is)", f"{page.path} (as it should be)", lineterm=""
        )


def _tell_damage(evidence: Evidence, console: Console) -> None:
    for sentence in evidence.damage:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
