"""Write the boards, or say which of the written ones are stale."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from cakdbench.grid.suites import OTHER, PairSpec, Suite, suites
from cakdbench.reports.blocks import BoardResults
from cakdbench.reports.board import PLOTS, Plot
from cakdbench.reports.eligibility import Standard
from cakdbench.reports.pages import Page, board_names, pages, suite_board
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
    own: Iterable[Suite] = (),
) -> None:
    """Write boards and their plots, and print those with runs.

    Args:
        specs: their boards are written; those on no board are a board `other`. None: every board with printed
            numbers or runs, and the pages on reproduction, conflicts and costs.
        folder: where the pages go.
        data_dir: where the datasets lie; only for pairs on `timm:` datasets.
        formats: md, html, csv, tex.
        own: suites that do not come with cakdbench; their boards have the pairs that they name.

    Raises:
        StoreError: a page cannot be written.
    """
    boards = _boards(evidence, specs, console, data_dir, own)
    for board in boards:
        if any(block.records for block in board.blocks):
            console.print(BoardView(board_of(board)))
    for page in pages(boards, evidence.records, formats, general=specs is None):
        path = folder / page.path
        if not isinstance(page.source, Plot) or any(_diff(page, path)):
            write_atomic(path, page.text.encode())
        if path.suffix != ".svg":
            console.print(f"written: {path}", markup=False, highlight=False)


def _boards(
    evidence: Evidence, specs: Iterable[PairSpec] | None, console: Console, data_dir: Path | None, own: Iterable[Suite]
) -> list[BoardResults]:
    """Return the results of the boards, after a warning for each file that cannot be read."""
    for sentence in evidence.damage:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
    own, shipped = list(own), list(suites().values())
    claimed = {spec for suite in own for spec in suite.specs}
    rest = None if specs is None else [spec for spec in specs if spec not in claimed]
    free = tuple(spec for spec in rest or () if not any(spec in suite.specs for suite in shipped))
    known = [*own, *shipped, Suite(OTHER, "Pairs and recipes of no board", OTHER, free)]
    names = dict.fromkeys([*(suite.board for suite in own), *board_names(evidence, known, rest)])
    return [suite_board(name, known, evidence, Standard(data_dir)) for name in names]


def check_boards(
    evidence: Evidence,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    data_dir: Path | None = None,
    own: Iterable[Suite] = (),
) -> bool:
    """Print what is stale in a folder of boards, as a diff; return True if nothing is.

    Arguments as for `write_boards`. A picture is judged by the numbers it was drawn from, as its bytes depend on the
    version of matplotlib.
    """
    boards = _boards(evidence, specs, console, data_dir, own)
    current = list(pages(boards, evidence.records, general=specs is None))
    stale = [line for page in current for line in _diff(page, folder / page.path)]
    if specs is None:
        stale += _strays(current, folder)
    for line in stale:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return not stale and not evidence.damage


def _strays(current: Iterable[Page], folder: Path) -> Iterator[str]:
    paths = [*folder.glob("*.md"), *folder.glob(f"{PLOTS}/*.svg")]
    names = {path.relative_to(folder).as_posix() for path in paths}
    for name in sorted(names - {page.path for page in current} - BY_HAND):
        yield f"{name}: nothing generates this; delete it"


def _diff(page: Page, path: Path) -> Iterator[str]:
    """Yield what is stale in a file, a line each; nothing if it is current."""
    if not path.is_file():
        yield f"{page.path}: missing; `cakdbench leaderboard` writes it"
    elif not isinstance(page.source, Plot):
        # The parts between line feeds differ in any byte that differs, as a carriage return.
        old, new = path.read_bytes().decode(errors="replace").split("\n"), page.text.split("\n")
        names = f"{page.path} (as it is)", f"{page.path} (as it should be)"
        yield from difflib.unified_diff(old, new, *names, lineterm="")
    elif plot_digest(path.read_text(errors="replace")) != page.source.digest:
        yield f"{page.path}: drawn from other numbers; `cakdbench leaderboard` draws it anew"
