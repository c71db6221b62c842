"""A board as a markdown page. Equal boards give equal bytes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from tabulate import tabulate

from cakdbench.records import Record
from cakdbench.reports.board import Aside, Block, BlockColumn, Board, Row, Score
from cakdbench.reports.text import (
    MARKS,
    MISSING,
    REFUSED,
    average_text,
    commands,
    pair_text,
    points,
    score_marks,
    score_text,
    seeds_text,
    span,
    teacher_text,
)

HOW_TO_READ = (
    "Top-1 accuracy on the test set in percent, of the last epoch: mean ± standard deviation over seeds "
    "(no ± with one seed). In brackets the gain in points over our own scratch student of the same recipe "
    "and the same seeds."
)
NOTES = """\
- Order: scratch, KD, then the other methods by the number of pairs they have a gain on, and by average gain.
  An average over fewer pairs says so; it must not be compared with one over all.
- One image is the least by which an accuracy can change. The standard error is the binomial one of a single
  accuracy, the largest of the column.
- Two scores of a column that differ by less than the number under "cannot be told apart below" may differ by
  the choice of the test images alone (95 %). The number takes the two scores for independent; as all methods
  see the same images it is too wide rather than too narrow. More seeds do not make it smaller.
- What the seed changes comes on top of that. The ± shows it; with one seed it is unknown.
- Optimistic numbers are of the best epoch, chosen on the test set. Some papers print this; it is too high by
  construction and ranks nothing here.
- Times and speeds are means over the seeds, of the method's own steps and evaluations; data and teacher,
  which all methods of a group share, are left out. Extra parameters are trained beside the student and
  dropped afterwards. Lanes are students trained side by side in one pass over the data."""


def board_markdown(board: Board) -> str:
    """The page `leaderboards/<board>.md`."""
    parts = [
        f"# {_plain(board.title)}",
        "*Made from the records by `cakdbench leaderboard`; changes by hand are overwritten.*",
        HOW_TO_READ,
    ]
    for block in board.blocks:
        parts += _block(block, named=len(board.blocks) > 1 or block.precision != "fp32")
    parts += ["## Notes", NOTES]
    if board.missing:
        parts += ["## Not measured yet", f"{len(board.missing)} runs. To make them:"]
        parts.append("\n".join(["```sh", *commands(board.missing), "```"]))
    if board.aside:
        parts += ["## Runs with changed settings (not comparable)", _aside_table(board.aside)]
    if board.other_recipes:
        counts = ", ".join(f"`{_plain(name)}` ({count})" for name, count in board.other_recipes.items())
        parts.append(f"Runs of these pairs under other recipes, not shown here: {counts}.")
    return "\n\n".join(parts) + "\n"


def _block(block: Block, named: bool) -> Iterator[str]:
    level = "##"
    if named:
        yield f"## Precision: {block.precision}"
        level = "###"
    yield _main_table(block)
    yield from _legend(block)
    if any(column.records for column in block.columns):
        yield f"{level} How sure is a difference?"
        yield _certainty_table(block)
        yield f"{level} Optimistic numbers (best epoch on the test set)"
        yield _side_table(block, lambda record: record.result.optimistic_top1)
        if any(record.result.ema_top1 is not None for column in block.columns for record in column.records):
            yield f"{level} Averaged weights (EMA, last epoch)"
            yield _side_table(block, lambda record: record.result.ema_top1)
        yield f"{level} Conditions"
        yield from _conditions(block)


def _main_table(block: Block) -> str:
    heads = [pair_text(column.column, block, "<br>") for column in block.columns]
    teachers = ["*teacher*", *map(teacher_text, block.columns), "", ""]
    rows = [
        [_name(row), *(score_text(score, row) for score in row.scores), average_text(row), seeds_text(row)]
        for row in block.rows
    ]
    return _table(["method", *heads, "average gain", "seeds"], [teachers, *rows])


def _name(row: Row) -> str:
    return row.title if row.title.lower() == row.label else f"{row.title} `{row.label}`"


def _legend(block: Block) -> Iterator[str]:
    scores = [score for row in block.rows for score in row.scores]
    used = {mark for score in scores for mark in score_marks(score)}
    lines = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(not score.records and score.refusal is None for score in scores):
        lines.append(f"{MISSING} not measured yet")
    lines += [f"{REFUSED} {_plain(reason)}: {_plain(', '.join(cells))}" for reason, cells in _refusals(block).items()]
    if lines:
        yield "\n".join(f"- {line}" for line in lines)


def _refusals(block: Block) -> dict[str, list[str]]:
    """Reason to the cells refused for it."""
    found: dict[str, list[str]] = {}
    for row in block.rows:
        for column, score in zip(block.columns, row.scores, strict=True):
            if score.refusal is not None:
                found.setdefault(score.refusal, []).append(f"{row.label} on {column.column.pair}")
    return found


def _certainty_table(block: Block) -> str:
    rows = [
        [
            pair_text(each.column, block, ", "),
            f"{each.column.test_images:,}",
            f"{100 / each.column.test_images:.3g}",
            points(each.standard_error),
            points(each.indistinguishable),
        ]
        for each in block.columns
    ]
    return _table(["pair", "test images", "one image", "standard error", "cannot be told apart below"], rows)


def _side_table(block: Block, value: Callable[[Record], float | None]) -> str:
    heads = [pair_text(column.column, block, "<br>") for column in block.columns]
    rows = [[_name(row), *(points(score.mean_of(value)) for score in row.scores)] for row in block.rows]
    return _table(["method", *heads], rows)


def _conditions(block: Block) -> Iterator[str]:
    yield _protocol_table(block)
    records = [record for column in block.columns for record in column.records]
    yield f"Precision: {block.precision}. {_versions(records)}"
    runs = [
        [row.label, pair_text(column.column, block, ", "), *_run_facts(score)]
        for row in block.rows
        for column, score in zip(block.columns, row.scores, strict=True)
        if score.records
    ]
    heads = ["method", "pair", "device", "processes", "threads", "time s", "images/s", "peak MB"]
    heads += ["student parameters", "extra parameters", "lanes", "options"]
    yield "<details><summary>Devices, speed and parameters of the runs</summary>"
    yield _table(heads, runs)
    yield "</details>"


def _protocol_table(block: Block) -> str:
    rows = []
    for each in block.columns:
        column, numbers = each.column, each.column.numbers
        rows.append(
            [
                pair_text(column, block, ", "),
                f"{column.dataset} `{each.fingerprint[:8]}`",
                column.recipe,
                numbers["epochs"],
                f"{numbers['global_batch']} ({numbers['local_batch']})",
                numbers["image_size"],
                _teacher_facts(each),
            ]
        )
    heads = [
        "pair",
        "dataset, fingerprint",
        "recipe",
        "epochs",
        "batch (local)",
        "image",
        "teacher's weights",
    ]
    return _table(heads, rows)


def _teacher_facts(column: BlockColumn) -> str:
    if not column.taught:
        return MISSING
    record = column.taught[0]
    expected = "" if record.teacher.expected is None else f", entry says {points(record.teacher.expected)}"
    return f"{record.teacher.source} `{record.identity.teacher.sha256[:8]}`{expected}"


def _versions(records: Sequence[Record]) -> str:
    counts = Counter(", ".join(f"{k} {v}" for k, v in sorted(r.conditions.versions.items())) for r in records)
    if len(counts) == 1:
        return f"Versions: {_plain(next(iter(counts)))}."
    lines = (f"{count} runs with {_plain(text)}" for text, count in sorted(counts.items()))
    return f"Versions: {'; '.join(lines)}."


def _run_facts(score: Score) -> list[str]:
    conditions = [record.conditions for record in score.records]
    memory = [c.peak_memory_mb for c in conditions if c.peak_memory_mb is not None]
    options = {
        "compiled": [c.compiled for c in conditions],
        "channels last": [c.channels_last for c in conditions],
    }
    return [
        ", ".join(sorted({c.device for c in conditions})),
        span(c.processes for c in conditions),
        span(c.threads for c in conditions),
        f"{fmean(c.seconds for c in conditions):,.0f}",
        f"{fmean(c.images_per_second for c in conditions):,.0f}",
        f"{fmean(memory):,.0f}" if memory else MISSING,
        span(record.student_parameters for record in score.records),
        span(record.extra_parameters for record in score.records),
        span(len(c.lanes) for c in conditions),
        ", ".join(name if all(values) else f"{name} in part" for name, values in options.items() if any(values)),
    ]


def _aside_table(runs: Sequence[Aside]) -> str:
    rows = [
        [
            run.record.identity.method.label,
            run.pair,
            run.record.identity.seed,
            run.record.identity.precision,
            points(run.record.result.top1),
            "; ".join(run.reasons),
        ]
        for run in runs
    ]
    return _table(["method", "pair", "seed", "precision", "top-1", "what differs"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[_plain(str(cell)) for cell in row] for row in rows]
    return tabulate(cells, [_plain(head) for head in heads], tablefmt="pipe", disable_numparse=True)


def _plain(text: str) -> str:
    """Text that cannot leave its table cell or line."""
    one_line = " ".join(text.split())
    return one_line.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;").replace("&lt;br>", "<br>")
