"""A board as tables for the terminal."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cakdbench.reports.board import Block, Board
from cakdbench.reports.text import (
    MARKS,
    average_text,
    pair_text,
    points,
    score_marks,
    score_text,
    seeds_text,
    teacher_text,
)


class BoardView:
    """A board for `console.print`: its main tables, cut into pieces that fit the width."""

    def __init__(self, board: Board):
        self.board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for block in self.board.blocks:
            yield Text(f"{self.board.title} ({block.precision})", style="bold")
            if any(column.records for column in block.columns):
                yield from _tables(block, console, options)
                yield from _notes(block)
            else:
                yield Text("no standard run yet")
        if self.board.aside:
            yield _aside_table(self.board)
        others = {
            "not measured yet": len(self.board.missing),
            "under other recipes": sum(self.board.other_recipes.values()),
        }
        lines = [f"{count} {what}" for what, count in others.items() if count]
        if lines:
            yield Text(f"runs of these pairs not shown: {', '.join(lines)}")


def _aside_table(board: Board) -> Table:
    table = Table(title="Runs with changed settings (not comparable)", title_justify="left")
    for head in ("method", "pair", "seed", "top-1", "what differs"):
        table.add_column(head, overflow="fold")
    for run in board.aside:
        cells = (run.record.label, run.pair, str(run.record.identity.seed), points(run.record.result.top1))
        table.add_row(*map(Text, cells), Text("; ".join(run.reasons)))
    return table


def _tables(block: Block, console: Console, options: ConsoleOptions) -> Iterator[Table]:
    places = list(range(len(block.columns)))
    while places:
        count = _fitting(block, places, console, options)
        yield _table(block, places[:count], last=count == len(places))
        places = places[count:]


def _fitting(block: Block, places: list[int], console: Console, options: ConsoleOptions) -> int:
    """How many of the next columns fit, at least one."""
    for count in range(len(places), 1, -1):
        table = _table(block, places[:count], last=count == len(places))
        if Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width:
            return count
    return 1


def _table(block: Block, places: list[int], last: bool) -> Table:
    """The columns at some places of a block, with the averages after the last of them."""
    table = Table("method")
    for place in places:
        table.add_column(Text(pair_text(block.columns[place].column, block, "\n").replace(" → ", "\n→ ")))
    teachers = ["teacher", *(teacher_text(block.columns[place]) for place in places)]
    if last:
        table.add_column("average\ngain")
        table.add_column("seeds")
        teachers += ["", ""]
    table.add_row(*map(Text, teachers), end_section=True)
    for row in block.rows:
        cells = [row.label, *(score_text(row.scores[place], row) for place in places)]
        table.add_row(*map(Text, [*cells, average_text(row), seeds_text(row)] if last else cells))
    return table


def _notes(block: Block) -> Iterator[Text]:
    used = {mark for row in block.rows for score in row.scores for mark in score_marks(score)}
    yield from (Text(f"{mark} {meaning}") for mark, meaning in MARKS.items() if mark in used)
    bounds = [bound for column in block.columns if (bound := column.indistinguishable) is not None]
    if bounds:
        yield Text(
            "top-1 in percent, last epoch, mean ± sd over seeds (gain over scratch of the same seeds); "
            f"differences below {points(max(bounds))} points can be chance of the test images, chance of the "
            "seed comes on top"
        )
