"""The sections of a board, made of its results: what stands on the page, in what order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd

from cakdbench.reports.blocks import TEACHER, Block, BoardResults, Score
from cakdbench.reports.board import Board, Cell, Section, table
from cakdbench.reports.commands import commands
from cakdbench.reports.conditions import conditions_table, runs_table, versions
from cakdbench.reports.eligibility import Excluded
from cakdbench.reports.plots import board_plots
from cakdbench.reports.printed import printed_values, protocol_lines, source_lines
from cakdbench.reports.results_table import MARKS, caption, method_cell, results_table, score_marks
from cakdbench.reports.text import MISSING, REFUSED, plain, points
from cakdbench.results.stats import indistinguishable, resolution, standard_error
from cakdbench.submissions.entry import ExternalEntry

HEAD = "*Made from the records by `cakdbench leaderboard`; changes by hand are overwritten.*"
HOW_TO_READ = (
    "Top-1 accuracy on the test set in percent, of the last epoch: mean ± standard deviation over seeds "
    "(no ± with one seed). In brackets the gain in points over our own scratch student of the same recipe "
    "and the same seeds. *In italics: printed in a paper, not measured here*, with a letter for the source."
)
TOP5 = "Mean over the seeds, of the last epoch; *in italics: printed in a paper*. Papers print it for these pairs."
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


def board_of(results: BoardResults) -> Board:
    """Return the page of a board."""
    return Board(results.name, results.title, tuple(_sections(results)))


def _sections(results: BoardResults) -> Iterator[Section]:
    yield Section(label="About", notes=(HEAD, HOW_TO_READ))
    for block in results.blocks:
        yield from _block_sections(block, results)
    if plots := board_plots(results):
        yield Section("Plots", plots=tuple(plots.values()))
    yield Section("Notes", notes=(NOTES,))
    if results.missing:
        count = f"{len(results.missing)} runs"
        yield Section(
            "Not measured yet",
            label=f"Not measured yet: {count}",
            notes=(f"{count}. To make them:",),
            code=tuple(commands(results.missing)),
        )
    if results.excluded:
        title = "Runs with changed settings (not comparable)"
        yield Section(title, frame=_excluded_table(results.excluded), brief=True)
    if results.external:
        title = "Measured with other code (external: not re-scored, not ranked)"
        yield Section(title, frame=_external_table(results.external), brief=True)
    if results.other_recipes:
        counts = ", ".join(f"`{plain(name)}` ({count})" for name, count in results.other_recipes.items())
        note = f"Runs of these pairs under other recipes, not shown here: {counts}."
        yield Section(label="Other recipes", notes=(note,), brief=True)


def _block_sections(block: Block, results: BoardResults) -> Iterator[Section]:
    heading = results.heading(block)
    yield Section(
        heading,
        label=heading or "Results",
        frame=results_table(block),
        caption=caption(results.title, block),
        footer=_legend(block),
        interactive=True,
        brief=bool(block.records),
    )
    for title, parts in _parts(block):
        label = f"{heading}: {title}" if heading else title
        yield Section(title, 3 if heading else 2, label, **parts)


def _parts(block: Block) -> Iterator[tuple[str, dict]]:
    """Yield what stands below a block's results: titles, and the other fields of their sections."""
    if any(column.printed["top5"] for column in block.columns):
        yield "Top-5 accuracy", {"notes": (TOP5,), "frame": _top5_table(block)}
    if any(column.printed["top1"] for column in block.columns):
        yield "How the printed numbers were made", {"notes": source_lines(block) + protocol_lines(block)}
    if not block.records:
        return
    yield "How sure is a difference?", {"frame": _certainty_table(block), "brief": True}
    yield "Optimistic numbers (best epoch on the test set)", {"frame": _side_table(block, "optimistic")}
    if any(record.result.ema_top1 is not None for record in block.records):
        yield "Averaged weights (EMA, last epoch)", {"frame": _side_table(block, "ema")}
    software = f"Precision: {block.precision}. Versions: {plain('; '.join(versions(block)))}."
    yield "Conditions", {"frame": conditions_table(block), "footer": (software,)}
    yield "Devices, speed and parameters of the runs", {"frame": runs_table(block), "folded": True}


def _legend(block: Block) -> tuple[str, ...]:
    used = {mark for row in block.rows for score in row.scores for mark in score_marks(score)}
    lines = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(not score.seeds and score.refusal is None for row in block.rows for score in row.scores):
        lines.append(f"{MISSING} not measured yet")
    lines += [f"{REFUSED} {plain(reason)}: {plain(', '.join(cells))}" for reason, cells in _refusals(block).items()]
    return ("\n".join(f"- {line}" for line in lines),) if lines else ()


def _refusals(block: Block) -> dict[str, list[str]]:
    """Return the cells refused for each reason."""
    cells: dict[str, list[str]] = {}
    for row in block.rows:
        for score in row.scores:
            if score.refusal is not None and row.kind is not None:
                cells.setdefault(score.refusal, []).append(f"{row.label} on {score.column.column.pair}")
    return cells


def _certainty_table(block: Block) -> pd.DataFrame:
    heads = ["pair", "test images", "one image", "standard error", "independent: not told apart below"]
    rows = []
    for place, column in enumerate(block.columns):
        images, means = column.column.test_images, [row.scores[place].mean for row in block.rows]
        known = [mean for mean in means if mean is not None]
        bounds = (max((of(mean, images) for mean in known), default=None) for of in (standard_error, indistinguishable))
        rows.append((column.name, f"{images:,}", f"{resolution(images):.3g}", *map(points, bounds)))
    return table(heads, rows)


def _side_table(block: Block, number: str) -> pd.DataFrame:
    """Return another number of the cells, a field of `Score`, for the methods with any run."""
    heads = ["method", *(column.head for column in block.columns)]
    rows = [row for row in block.rows if row.counts]
    return table(heads, ([method_cell(row), *(_number_cell(getattr(s, number)) for s in row.scores)] for row in rows))


def _top5_table(block: Block) -> pd.DataFrame:
    """Return top-5 accuracies beside the printed ones, for the pairs and methods with a printed one."""
    columns = [column for column in block.columns if column.printed["top5"]]
    teachers = (Cell(MISSING, printed=printed_values(column, TEACHER, "top5")) for column in columns)
    rows = [[Cell(TEACHER, emphasis=True), *teachers]]
    for row in block.rows:
        scores = [score for score in row.scores if score.column.printed["top5"]]
        if any(score.seeds or score.printed("top5") for score in scores):
            rows.append([method_cell(row), *map(_top5_cell, scores)])
    return table(["method", *(column.head for column in columns)], rows)


def _top5_cell(score: Score) -> Cell:
    return replace(_number_cell(score.top5), printed=printed_values(score.column, score.label, "top5"))


def _number_cell(value: float | None) -> Cell:
    return Cell(MISSING) if value is None else Cell(measured=value)


def _excluded_table(runs: Iterable[Excluded]) -> pd.DataFrame:
    rows = []
    for run in runs:
        identity, top1 = run.record.identity, points(run.record.result.top1)
        facts = run.record.label, run.pair, str(identity.seed), identity.precision, top1
        rows.append((*facts, "; ".join(run.reasons)))
    return table(["method", "pair", "seed", "precision", "top-1", "what differs"], rows)


def _external_table(entries: Iterable[ExternalEntry]) -> pd.DataFrame:
    heads = ["method", "pair", "top-1", "epoch", "seeds", "differs from the recipe in", "source", "submitted by"]
    ordered = sorted(entries, key=lambda entry: (entry.pair, entry.method, entry.accuracy, entry.source))
    return table(heads, map(_external_row, ordered))


def _external_row(entry: ExternalEntry) -> tuple[Cell | str, ...]:
    accuracy = Cell(measured=entry.accuracy, sd=entry.deviation)
    seeds = MISSING if entry.seeds is None else str(entry.seeds)
    differences = "; ".join(entry.differences)
    return entry.method, entry.pair, accuracy, entry.metric, seeds, differences, entry.source, entry.submitted_by
