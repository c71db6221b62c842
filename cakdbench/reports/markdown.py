"""A board as a markdown page. Equal boards give equal bytes."""

from collections.abc import Iterator, Mapping, Sequence

from cakdbench.reports import tables
from cakdbench.reports.board import Block, Board
from cakdbench.reports.markup import plain, table_text
from cakdbench.reports.printed import protocol_lines, source_lines
from cakdbench.reports.text import MARKS, MISSING, REFUSED, commands, score_marks

HOW_TO_READ = (
    "Top-1 accuracy on the test set in percent, of the last epoch: mean ± standard deviation over seeds "
    "(no ± with one seed). In brackets the gain in points over our own scratch student of the same recipe "
    "and the same seeds. *In italics: printed in a paper, not measured here*, with a letter for the source."
)
NOTES = """\
- Order: scratch, KD, then the other methods by the number of pairs they have a gain on, and by average gain.
  An average over fewer pairs says so; it must not be compared with one over all.
- Rank: mean over the pairs of the method's rank by accuracy (1 is best), among the methods measured on all pairs with
  three seeds or more.
- Group: methods that share a letter cannot be told apart in average accuracy. Bold: the best of a pair, and what
  cannot be told apart from it. Both by a paired test on the stored predictions: its standard error holds the choice of
  the test images (paired, image by image) and the chance of training (the residual of method + seed over all methods
  of the pair); degrees of freedom by Welch and Satterthwaite; Holm's correction over all comparisons at 5 %. With fewer
  than three seeds there is no test. The rules: [RULES.md](RULES.md).
- One image is the least by which an accuracy can change. The standard error is the binomial one of a single
  accuracy, the largest of the column; the last column of that table is for two scores taken as independent, which is
  what a reader of printed accuracies can know (95 %).
- Optimistic numbers are of the best epoch, chosen on the test set. Some papers print this; it is too high by
  construction and ranks nothing here.
- Times and speeds are means over the seeds, of the method's own steps and evaluations; data and teacher,
  which all methods of a group share, are left out. Extra parameters are trained beside the student and
  dropped afterwards. Lanes are students trained side by side in one pass over the data. Status: see the rules."""


def board_markdown(board: Board, plots: Sequence[tuple[str, str]] = ()) -> str:
    """The page `leaderboards/<board>.md`.

    Args:
        plots: caption and path, from the page, of each picture.
    """
    parts = [
        f"# {plain(board.title)}",
        "*Made from the records by `cakdbench leaderboard`; changes by hand are overwritten.*",
        HOW_TO_READ,
    ]
    for block in board.blocks:
        parts += _block(block, board)
    if plots:
        parts += ["## Plots", *(f"![{plain(caption)}]({path})" for caption, path in plots)]
    parts += ["## Notes", NOTES]
    if board.missing:
        parts += ["## Not measured yet", f"{len(board.missing)} runs. To make them:"]
        parts.append("\n".join(["```sh", *commands(board.missing), "```"]))
    if board.aside:
        parts += ["## Runs with changed settings (not comparable)", table_text(tables.aside_table(board.aside))]
    if board.external:
        parts += ["## Measured with other code (external: not re-scored, not ranked)"]
        parts.append(table_text(tables.external_table(board.external)))
    if board.other_recipes:
        counts = ", ".join(f"`{plain(name)}` ({count})" for name, count in board.other_recipes.items())
        parts.append(f"Runs of these pairs under other recipes, not shown here: {counts}.")
    return "\n\n".join(parts) + "\n"


def _block(block: Block, board: Board) -> Iterator[str]:
    level = "##"
    if heading := board.heading(block):
        yield f"## {plain(heading)}"
        level = "###"
    yield table_text(tables.main_table(block))
    yield from _legend(block)
    if any(column.printed for column in block.columns):
        yield f"{level} How the printed numbers were made"
        yield from source_lines(block)
        yield from protocol_lines(block)
    if any(column.records for column in block.columns):
        yield from _measured(block, level, board.statuses)


def _measured(block: Block, level: str, statuses: Mapping[str, str]) -> Iterator[str]:
    records = [record for column in block.columns for record in column.records]
    yield f"{level} How sure is a difference?"
    yield table_text(tables.certainty_table(block))
    yield f"{level} Optimistic numbers (best epoch on the test set)"
    yield table_text(tables.side_table(block, lambda record: record.result.optimistic_top1))
    if any(record.result.ema_top1 is not None for record in records):
        yield f"{level} Averaged weights (EMA, last epoch)"
        yield table_text(tables.side_table(block, lambda record: record.result.ema_top1))
    yield f"{level} Conditions"
    yield table_text(tables.protocol_table(block))
    yield f"Precision: {block.precision}. Versions: {plain('; '.join(tables.versions(records)))}."
    yield "<details><summary>Devices, speed and parameters of the runs</summary>"
    yield table_text(tables.runs_table(block, statuses))
    yield "</details>"


def _legend(block: Block) -> Iterator[str]:
    scores = [score for row in block.rows for score in row.scores]
    used = {mark for score in scores for mark in score_marks(score)}
    lines = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(not score.records and score.refusal is None for score in scores):
        lines.append(f"{MISSING} not measured yet")
    lines += [f"{REFUSED} {plain(reason)}: {plain(', '.join(cells))}" for reason, cells in _refusals(block).items()]
    if lines:
        yield "\n".join(f"- {line}" for line in lines)


def _refusals(block: Block) -> dict[str, list[str]]:
    """Reason to the cells refused for it."""
    found: dict[str, list[str]] = {}
    for row in block.rows:
        for column, score in zip(block.columns, row.scores, strict=True):
            if score.refusal is not None and (row.installed or score.records):
                found.setdefault(score.refusal, []).append(f"{row.label} on {column.column.pair}")
    return found
