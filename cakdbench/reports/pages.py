"""Every generated file of the leaderboards, as text, from evidence and the published numbers alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cakdbench.grid.suites import PairSpec, Suite, suites
from cakdbench.records import Record
from cakdbench.reports.board import Board
from cakdbench.reports.eligibility import Standard, board_columns
from cakdbench.reports.formats import block_csv, board_latex
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page import board_html
from cakdbench.reports.page_conflicts import conflicts_markdown
from cakdbench.reports.page_costs import costs_markdown
from cakdbench.reports.page_reproduction import reproduction_markdown
from cakdbench.reports.placing import build_board
from cakdbench.reports.plots import Plot, board_plots
from cakdbench.results.load import Evidence

FORMATS = ("md", "html", "csv", "tex")
PLOTS = "plots"


@dataclass(frozen=True)
class Page:
    """A file under the folder of the boards; a plot is drawn when its text is asked for."""

    path: str
    source: str | Plot

    @property
    def text(self) -> str:
        return self.source if isinstance(self.source, str) else self.source.draw()


def board_pages(board: Board, formats: Iterable[str] = ("md",)) -> Iterator[Page]:
    """The files of one board: for `md` the page and its plots, else one file a format."""
    plots = board_plots(board)
    for each in formats:
        name = f"{board.name}.{each}"
        match each:
            case "md":
                pictures = [(plot.caption, f"{PLOTS}/{plot.name}") for plot in plots.values()]
                yield Page(name, board_markdown(board, pictures))
                yield from (Page(f"{PLOTS}/{plot.name}", plot) for plot in plots.values())
            case "html":
                yield Page(name, board_html(board, {key: plot.draw() for key, plot in plots.items()}))
            case "csv":
                yield Page(name, block_csv(board))
            case "tex":
                yield Page(name, board_latex(board))


def general_pages(boards: Iterable[Board], records: Iterable[Record]) -> Iterator[Page]:
    """The pages that belong to no single board."""
    yield Page("reproduction.md", reproduction_markdown(boards))
    yield Page("conflicts.md", conflicts_markdown())
    yield Page("costs.md", costs_markdown(records))


def boards_of(evidence: Evidence, names: Iterable[str], data_dir: Path | None = None) -> Iterator[Board]:
    """The boards of these names, made of the evidence."""
    rules, known = Standard(data_dir), list(suites().values())
    for name in names:
        yield suite_board(name, known, evidence, rules)


def suite_board(name: str, known: Iterable[Suite], evidence: Evidence, rules: Standard) -> Board:
    """The board of that name, titled by its file or as the largest of its suites."""
    members = [suite for suite in known if suite.board == name]
    largest = max(members, key=lambda suite: len(suite.specs))
    title = largest.board_title or largest.title
    columns = board_columns(members, name)
    board = build_board(name, title, columns, evidence.records, rules, evidence.answers, evidence.statuses)
    pairs = {column.pair for column in columns}
    return replace(board, external=tuple(each for each in evidence.external if each.pair in pairs))


def board_names(evidence: Evidence, specs: Iterable[PairSpec] | None) -> list[str]:
    """The boards of some pairs; of no pairs in particular: those with printed numbers or with a run."""
    known = list(suites().values())
    names = list(dict.fromkeys(suite.board for suite in known))
    if specs is not None:
        wanted = set(specs)
        return [n for n in names if any(s.board == n and wanted.intersection(s.specs) for s in known)]
    printed = {suite.board for suite in known if suite.protocol}
    columns = {name: board_columns(known, name) for name in names}
    return [n for n in names if n in printed or any(c.concerns(r) for c in columns[n] for r in evidence.records)]
