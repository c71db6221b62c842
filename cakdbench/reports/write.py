"""Regenerates the boards from the records of a store."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from cakdbench.records import Record
from cakdbench.reports.board import Board, Rules
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.placing import build_board
from cakdbench.reports.standard import Standard, board_columns, column_of
from cakdbench.reports.terminal import BoardView
from cakdbench.store import Store, write_atomic
from cakdbench.suites import PairSpec, Suite, suites


def write_boards(
    store: Store,
    specs: Iterable[PairSpec] | None,
    folder: Path,
    console: Console,
    data_dir: Path | None = None,
) -> None:
    """Write `<board>.md` for boards of the suites, and print them.

    Args:
        specs: their boards are written; those on no board are printed as a table of their own. None: every
            board that has a run.
        folder: where the pages go.
        data_dir: where the datasets lie; only for pairs on `timm:` datasets.

    Raises:
        StoreError: a page cannot be written.
    """
    records, damage = store.records()
    for sentence in damage:
        console.print(sentence, style="yellow", markup=False, highlight=False)
    rules, known = Standard(data_dir), list(suites().values())
    for name in _wanted(known, records, specs):
        board = suite_board(name, known, records, rules)
        path = folder / f"{name}.md"
        write_atomic(path, board_markdown(board).encode())
        console.print(BoardView(board))
        console.print(f"written: {path}", markup=False, highlight=False)
    free = [spec for spec in specs or () if not any(spec in suite.specs for suite in known)]
    if free:
        columns = [column_of(spec, data_dir) for spec in free]
        console.print(BoardView(build_board("", "Pairs and recipes of no board", columns, records, rules)))


def suite_board(name: str, known: Iterable[Suite], records: Iterable[Record], rules: Rules) -> Board:
    """The board of that name, titled as the largest of its suites."""
    members = [suite for suite in known if suite.board == name]
    title = max(members, key=lambda suite: len(suite.specs)).title
    return build_board(name, title, board_columns(members, name), records, rules)


def _wanted(known: list[Suite], records: list[Record], specs: Iterable[PairSpec] | None) -> list[str]:
    names = list(dict.fromkeys(suite.board for suite in known))
    if specs is not None:
        wanted = set(specs)
        return [n for n in names if any(s.board == n and wanted.intersection(s.specs) for s in known)]
    columns = {name: board_columns(known, name) for name in names}
    return [n for n in names if any(c.concerns(record) for c in columns[n] for record in records)]
