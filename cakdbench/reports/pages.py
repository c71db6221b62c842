"""Every generated file of the leaderboards, as text, from evidence and the published numbers alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cakdbench.grid.suites import PairSpec, Suite
from cakdbench.records import Record
from cakdbench.reports.blocks import BoardResults, board_results
from cakdbench.reports.board import PLOTS, Board, Plot
from cakdbench.reports.csv import board_csv
from cakdbench.reports.eligibility import Column, Standard, board_columns
from cakdbench.reports.html import board_html
from cakdbench.reports.latex import board_latex
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_conflicts import conflicts_board
from cakdbench.reports.page_costs import costs_board
from cakdbench.reports.page_reproduction import reproduction_board
from cakdbench.reports.sections import board_of
from cakdbench.results.load import Evidence

FORMATS: Mapping[str, Callable[[Board], str]] = {
    "md": board_markdown,
    "html": board_html,
    "csv": board_csv,
    "tex": board_latex,
}
"""Ending of a board's file to what writes it."""


@dataclass(frozen=True)
class Page:
    """A file under the folder of the boards; a plot is drawn when its text is asked for."""

    path: str
    source: str | Plot

    @property
    def text(self) -> str:
        return self.source if isinstance(self.source, str) else self.source.draw()


def pages(
    results: Sequence[BoardResults], records: Iterable[Record], formats: Iterable[str] = ("md",), general: bool = True
) -> Iterator[Page]:
    """Yield the files of boards, one a format, and for `md` the plots beside it.

    Args:
        general: with the pages that belong to no single board.
    """
    boards = [board_of(result) for result in results]
    if general:
        boards += [reproduction_board(results), conflicts_board(), costs_board(records)]
    for board in boards:
        for ending in formats:
            yield Page(f"{board.name}.{ending}", FORMATS[ending](board))
            if ending == "md":
                yield from (Page(f"{PLOTS}/{plot.name}", plot) for plot in board.plots.values())


def suite_board(name: str, suites: Iterable[Suite], evidence: Evidence, rules: Standard) -> BoardResults:
    """Return the results of the board of that name, titled by its file or as the largest of its suites."""
    members = [suite for suite in suites if suite.board == name]
    largest = max(members, key=lambda suite: len(suite.specs))
    return board_results(
        name,
        largest.board_title or largest.title,
        board_columns(members, name, rules.data_dir),
        evidence.records,
        rules,
        evidence.answers_by_key,
        evidence.statuses,
        evidence.external,
    )


def board_names(evidence: Evidence, suites: Iterable[Suite], specs: Iterable[PairSpec] | None) -> list[str]:
    """Return the boards of some pairs; of no pairs in particular: those with printed numbers or with a run."""
    suites = list(suites)
    if specs is not None:
        chosen = set(specs)
        return list(dict.fromkeys(suite.board for suite in suites if chosen.intersection(suite.specs)))
    printed = {suite.board for suite in suites if suite.protocol}
    names = dict.fromkeys(suite.board for suite in suites)
    return [name for name in names if name in printed or _has_run(board_columns(suites, name), evidence.records)]


def _has_run(columns: Iterable[Column], records: Iterable[Record]) -> bool:
    return any(column.concerns(record) for column in columns for record in records)
