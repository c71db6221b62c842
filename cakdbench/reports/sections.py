"""The sections of a board, made of its results: what stands on the page, in what order."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from cakdbench.data.classes import some
from cakdbench.reports.blocks import TEACHER, Block, BoardResults, counted_scores
from cakdbench.reports.board import Board, Cell, Section, table
from cakdbench.reports.eligibility import Excluded
from cakdbench.reports.missing import commands
from cakdbench.reports.plots import board_plots
from cakdbench.reports.printed import printed_values, protocol_lines, source_lines
from cakdbench.reports.results_table import MARKS, caption, method_cell, results_table, score_marks
from cakdbench.reports.text import MISSING, REFUSED, bullets, plain, points, prose, span
from cakdbench.results.stats import ALPHA, indistinguishable, resolution, standard_error
from cakdbench.submissions.entry import ExternalEntry

TEXTS = prose("board", alpha=ALPHA)
CONDITIONS = ("pair", "dataset, fingerprint", "recipe", "epochs", "batch (local)", "image", "teacher's weights")
RUNS = (
    *("method", "pair", "status", "device", "processes", "threads", "time s", "images/s", "peak MB", "energy Wh"),
    *("student parameters", "extra parameters", "lanes", "options"),
)


@functools.lru_cache(maxsize=8)  # it is shown and written
def board_of(results: BoardResults) -> Board:
    """Return the page of a board."""
    return Board(results.name, results.title, tuple(_sections(results)))


def _sections(results: BoardResults) -> Iterator[Section]:
    yield Section(label="About", notes=TEXTS["about"])
    for block in results.blocks:
        yield from _block_sections(block, results)
    if plots := board_plots(results):
        yield Section("Plots", plots=tuple(plots.values()))
    yield Section("Notes", notes=TEXTS["notes"])
    if results.missing:
        count = f"{len(results.missing)} runs"
        lines, title = tuple(commands(results.missing)), "Not measured yet"
        yield Section(title, label=f"{title}: {count}", notes=(f"{count}. To make them:",), code=lines)
    yield from excluded_sections(results.excluded)
    if results.external:
        title = "Measured with other code (external: not re-scored, not ranked)"
        yield Section(title, frame=_external_table(results.external), brief=True)
    yield from other_sections(results.other_recipes)


def excluded_sections(runs: Sequence[Excluded]) -> Iterator[Section]:
    """Yield the list of runs that do not count, each with its reasons, if there are any."""
    if runs:
        yield Section("Runs with changed settings (not comparable)", frame=_excluded_table(runs), brief=True)


def other_sections(counts: Mapping[str, int]) -> Iterator[Section]:
    """Yield how many runs there are under other recipes, if any."""
    if counts:
        told = ", ".join(f"`{plain(name)}` ({count})" for name, count in counts.items())
        note = f"Runs of these pairs under other recipes, not shown here: {told}."
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
        yield "Top-5 accuracy", {"notes": TEXTS["top5"], "frame": _top5_table(block)}
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
    places = range(len(block.columns))
    used = {mark for row in block.rows for place in places for mark in score_marks(row, place, block)}
    lines = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(not score.seeds and score.refusal is None for row in block.rows for score in row.scores):
        lines.append(f"{MISSING} not measured yet")
    lines += [f"{REFUSED} {plain(reason)}: {plain(', '.join(cells))}" for reason, cells in _refusals(block).items()]
    return bullets(lines)


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
        scores = counted_scores(row.scores[place] for row in block.rows)
        images, known = column.test_images, [score.mean for score in scores if score.mean is not None]
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
        cells = [_number_cell(s.top5, printed_values(s.column, s.label, "top5")) for s in scores]
        if any(cell.printed or cell.measured is not None for cell in cells):
            rows.append([method_cell(row), *cells])
    return table(["method", *(column.head for column in columns)], rows)


def _number_cell(value: float | None, printed: tuple[tuple[str, str], ...] = ()) -> Cell:
    return Cell(MISSING if value is None else "", measured=value, printed=printed)


def _excluded_table(runs: Iterable[Excluded]) -> pd.DataFrame:
    rows = []
    for run in runs:
        identity = run.record.identity
        facts = run.record.label, run.pair, str(identity.seed), identity.precision, points(run.record.result.top1)
        rows.append((*facts, "; ".join(run.reasons)))
    return table(["method", "pair", "seed", "precision", "top-1", "what differs"], rows)


def _external_table(entries: Iterable[ExternalEntry]) -> pd.DataFrame:
    heads = ["method", "pair", "top-1", "epoch", "seeds", "differs from the recipe in", "source", "submitted by"]
    rows = []
    for entry in sorted(entries, key=lambda entry: (entry.pair, entry.method, entry.accuracy, entry.source)):
        accuracy, seeds = Cell(measured=entry.accuracy, sd=entry.deviation), str(entry.seeds or MISSING)
        place = entry.method, entry.pair, accuracy, entry.metric, seeds
        rows.append((*place, "; ".join(entry.differences), entry.source, entry.submitted_by))
    return table(heads, rows)


def conditions_table(block: Block) -> pd.DataFrame:
    """Return the recipe, the data and the teacher's weights of each pair."""
    rows = []
    for place in block.columns:
        column, numbers = place.column, place.column.numbers
        skipped = sorted(filter(None, {record.identity.dataset.skipped for record in place.settled_records}))
        left_out = (f"(unreadable and left out: {count})" for count in skipped)
        prints = (f"`{text[:8]}`" for text in place.settled["fingerprint"][:1])
        orders = dict.fromkeys(filter(None, (record.class_names for record in place.settled_records)))
        classes = (f"(classes: {some(names)})" for names in orders)
        dataset = " ".join([column.dataset, *prints, *classes, *left_out])
        batch = f"{numbers['global_batch']} ({numbers['local_batch']})"
        sizes = str(numbers["epochs"]), batch, str(numbers["image_size"])
        rows.append((place.name, dataset, column.recipe, *sizes, _teacher_facts(place.settled)))
    return table(CONDITIONS, rows)


def _teacher_facts(runs: pd.DataFrame) -> str:
    taught = runs[runs["teacher"].notna()]
    if taught.empty:
        return MISSING
    first = taught.iloc[0]
    expected = "" if pd.isna(first["teacher_expected"]) else f", entry says {points(first['teacher_expected'])}"
    return f"{first['teacher_source']} `{first['teacher_sha256'][:8]}`{expected}"


def versions(block: Block) -> list[str]:
    """Return the software of the runs, with counts if they differ."""
    counts = block.settled["versions"].value_counts()
    if len(counts) == 1:
        return list(counts.index)
    return [f"{count} runs with {text}" for text, count in sorted(counts.items())]


def runs_table(block: Block) -> pd.DataFrame:
    """Return how the runs of each cell were computed, and their status."""
    cells = ((row.label, score) for row in block.rows for score in row.scores if score.seeds)
    return table(RUNS, ((label, score.column.name, *_run_facts(score.runs)) for label, score in cells))


def _run_facts(runs: pd.DataFrame) -> list[str]:
    means = runs[["seconds", "images_per_second", "peak_memory_mb", "energy_wh"]].mean()
    options = {"compiled": runs["compiled"], "channels last": runs["channels_last"]}
    return [
        *(", ".join(sorted(set(runs[name]))) for name in ("status", "device")),
        *(span(runs[name]) for name in ("processes", "threads")),
        *(MISSING if pd.isna(mean) else f"{mean:,.0f}" for mean in means),
        *(span(runs[name]) for name in ("student_parameters", "extra_parameters", "lanes")),
        ", ".join(name if values.all() else f"{name} in part" for name, values in options.items() if values.any()),
    ]
