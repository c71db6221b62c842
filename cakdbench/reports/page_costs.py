"""The page `leaderboards/costs.md`: the papers' training-cost table, the honest one beside it, and all methods."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from cakdbench.costs.frame import count_costs
from cakdbench.costs.papers import CLASSES, PAIRS, SOURCE, PaperCosts, PrintedCell, paper_costs
from cakdbench.method import Method
from cakdbench.records import Record
from cakdbench.registry import methods_in_order
from cakdbench.reports.board import Board, Cell, Section, table
from cakdbench.reports.text import REFUSED, bullets, number_text, plain, prose
from cakdbench.results.frame import measured_frame

COUNTED = (
    *("classes", "student_parameters", "student_macs", "extra_parameters", "added_macs", "path_macs"),
    *("batch_path_macs", "local_batch", "teacher_pass", "buffers_mb", "legacy_parameters", "legacy_macs"),
    *("legacy_student_parameters", "legacy_student_macs"),
)
MEASURED = ("device", "precision", "runs", "images_per_second", "peak_memory_mb", "seconds", "gpu_hours", "energy_wh")
"""Columns of the frames of costs that pages show."""
HEADS = {
    **{"batch_path_macs": "path MACs, batch", "buffers_mb": "buffers MB", "images_per_second": "images/s"},
    **{
        "predicted_peak_mb": "predicted peak MB",
        "peak_memory_mb": "peak MB",
        "seconds": "time s",
        "gpu_hours": "GPU-hours",
        "energy_wh": "energy Wh",
    },
}
"""Heads of columns whose name does not give it."""
RATIO_HEADS = (
    *("pair", "OFA released: params", "MACs", "FBT L2G: params", "MACs"),
    *("L2G / OFA, params", "as printed", "L2G / OFA, MACs", "as printed"),
)
PATH_HEADS = (
    *("pair", "OFA released", "FBT L2G", "tail, 2 of 12 blocks", "path", "path / OFA"),
    *("tail, 3 of 12 blocks", "path", "path / OFA"),
)


def costs_board(records: Iterable[Record] = ()) -> Board:
    """Return the page. Counting takes about a minute of one core, once a process.

    Args:
        records: finished runs; what they measured is a section of its own.
    """
    *sections, measured = _counted(tuple(methods_in_order()))
    means = measured_frame(records)
    if len(means):
        sections.append(replace(measured, frame=cost_table(means, ["pair", "recipe", "method", *MEASURED])))
    return Board("costs", "Training costs", tuple(sections))


def methods_board(costs: pd.DataFrame) -> Board:
    """Return a frame of `count_costs`, with or without measured columns, as a page."""
    columns = ["pair", "method", *COUNTED, *(name for name in ("predicted_peak_mb", *MEASURED) if name in costs)]
    section = Section(label="Costs", frame=cost_table(costs, columns), footer=bullets(map(plain, _notes(costs))))
    return Board("costs", "Costs of methods", (section,))


def cost_table(costs: pd.DataFrame, columns: Sequence[str], **heads: str) -> pd.DataFrame:
    """Return some columns of a frame of costs, with `n/a` where a method refuses the pair.

    Args:
        heads: of columns that are named otherwise than in other tables.
    """
    chosen = costs[[*columns]].astype(object)
    chosen = chosen.where(chosen.notna(), None)
    if "refusal" in costs:
        chosen.loc[costs["refusal"].notna(), [name for name in columns if name in COUNTED]] = REFUSED
    for name, digits in {"buffers_mb": 3, "predicted_peak_mb": 0}.items():
        if name in chosen:
            chosen[name] = [x if x is None or isinstance(x, str) else round(x, digits) for x in chosen[name]]
    regular = {name: name.replace("parameters", "params").replace("macs", "MACs").replace("_", " ") for name in columns}
    return chosen.rename(columns=regular | HEADS | heads)


@functools.lru_cache(maxsize=1)
def _counted(methods: tuple[type[Method], ...]) -> tuple[Section, ...]:
    """Return the sections that need no runs, and last the one that runs are put into."""
    papers = paper_costs()
    texts = _texts(papers)
    printed = papers_table(papers)
    ratios, paths = table(RATIO_HEADS, map(_ratio_row, papers)), table(PATH_HEADS, map(_path_row, papers))
    return (
        Section(label="About", notes=texts["about"]),
        Section("The papers' table, regenerated", notes=texts["regenerated"], frame=printed),
        Section("The honest table", notes=texts["honest"], frame=ratios),
        Section(label="The reused tail", notes=texts["tail"], frame=paths, footer=texts["skew"]),
        *_all_methods([method.id for method in methods], texts["reading"]),
        Section("Measured", notes=texts["measured"]),
    )


def papers_table(papers: Iterable[PaperCosts]) -> pd.DataFrame:
    """Return the costs that papers print, each beside what its rules of counting give, and the true ones."""
    heads = ["pair", "", "params: paper", "legacy count", "true", "MACs: paper", "legacy count", "true"]
    return table(heads, (row for costs in papers for row in _paper_rows(costs)))


def _texts(papers: Sequence[PaperCosts]) -> dict[str, tuple[str, ...]]:
    """Return the texts of the page with what was counted filled in."""
    cells = [cell for costs in papers for cell in costs.cells]
    wrong = [
        f"The other is marked: {cell.part.upper()}'s {cell.quantity} on {_arrow(cell.pair)} are printed as "
        f"{cell.printed} and come to {number_text(cell.computed)}, which rounds to {cell.rounded}."
        for cell in cells
        if not cell.agrees
    ]
    more = sum(costs.parts["fbt"].macs + costs.tails["ofa"] > costs.released["ofa"].macs for costs in papers)
    counts = {"printed": len(cells), "agreeing": len(cells) - len(wrong), "more": more, "pairs": len(papers)}
    return prose("costs", classes=CLASSES, source=SOURCE, others=" ".join(wrong), **counts)


def _paper_rows(costs: PaperCosts) -> Iterator[list[Cell | str | int]]:
    names = {"student": "student", "ofa": "OFA, 4-3-2-1 blocks", "fbt": "FBT, L2G"}
    for parameters, macs in zip(costs.cells[::2], costs.cells[1::2], strict=True):
        cost = costs.parts[parameters.part]
        heads = Cell(_arrow(costs.pair)), names[parameters.part]
        yield [*heads, *_compared(parameters), cost.parameters, *_compared(macs), cost.macs]


def _compared(cell: PrintedCell) -> tuple[Cell | str, int]:
    if cell.agrees:
        return cell.printed, cell.computed
    return Cell(measured=float(cell.printed), best=True, marks=(f"✗ computed {cell.rounded}",)), cell.computed


def _ratio_row(costs: PaperCosts) -> list[str | int]:
    ofa, l2g = costs.released["ofa"], costs.parts["fbt"]
    row: list[str | int] = [_arrow(costs.pair), ofa.parameters, ofa.macs, l2g.parameters, l2g.macs]
    printed = {(cell.part, cell.quantity): float(cell.printed) for cell in costs.cells}
    for quantity in ("parameters", "MACs"):
        counted = getattr(l2g, quantity.lower()) / getattr(ofa, quantity.lower())
        row += [_percent(counted), _percent(printed["fbt", quantity] / printed["ofa", quantity])]
    return row


def _path_row(costs: PaperCosts) -> list[str | int]:
    ofa, l2g = costs.released["ofa"].macs, costs.parts["fbt"].macs
    row: list[str | int] = [_arrow(costs.pair), ofa, l2g]
    for split in ("ofa", "even"):
        row += [costs.tails[split], l2g + costs.tails[split], _percent((l2g + costs.tails[split]) / ofa)]
    return row


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _all_methods(labels: Sequence[str], reading: tuple[str, ...]) -> Iterator[Section]:
    yield Section("All methods")
    costs = count_costs(labels, ",".join(PAIRS), num_classes=CLASSES)
    counts = ("extra_parameters", "added_macs", "path_macs", "batch_path_macs", "teacher_pass", "buffers_mb")
    heads = {"added_macs": "MACs: added modules", "path_macs": "whole path", "teacher_pass": "teacher"}
    for pair, own in costs.groupby("pair", sort=False):
        heads["batch_path_macs"] = f"per image of a batch of {own['local_batch'].dropna().iloc[0]}"
        frame = cost_table(own, ["method", *counts, "legacy_parameters", "legacy_macs"], **heads)
        yield Section(_arrow(pair), 3, notes=(_pair_facts(own),), frame=frame)
    notes = bullets(f"{plain(note)}." for note in _notes(costs))
    yield Section(label="How to read", notes=("\n".join([*reading, *notes]),))


def _pair_facts(costs: pd.DataFrame) -> str:
    first = costs[costs["refusal"].isna()].iloc[0]
    return (
        f"Student: {first.student_parameters:,} parameters, {first.student_macs:,} MACs "
        f"(legacy {first.legacy_student_parameters:,} and {first.legacy_student_macs:,}). "
        f"Teacher: {first.teacher_parameters:,} parameters, {first.teacher_macs:,} MACs."
    )


def _notes(costs: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence on each method that refuses a pair, or whose steps are not alike."""
    for row in costs.drop_duplicates(["method", "pair"]).itertuples():
        if not pd.isna(row.refusal):
            yield f"{REFUSED}: {row.method} on {row.pair}: {row.refusal}"
        elif row.least_path_macs < row.most_path_macs:
            paths = f"{row.least_path_macs:,} to {row.most_path_macs:,} MACs"
            yield f"{row.method} on {row.pair}: its steps differ; means over ten, with paths of {paths}"


def _arrow(pair: str) -> str:
    """Return `deit_t → resnet18`."""
    return pair.partition("@")[0].replace(">", " → ")
