"""The page `leaderboards/costs.md`: the papers' training-cost table, the honest one beside it, and all methods."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from cakdbench.costs.frame import count_costs
from cakdbench.costs.papers import CLASSES, PAIRS, SOURCE, PaperCosts, PrintedCell, paper_costs
from cakdbench.method import Method
from cakdbench.records import Record
from cakdbench.registry import methods_in_order
from cakdbench.reports.board import Board, Cell, Section, table
from cakdbench.reports.text import REFUSED, number_text, plain
from cakdbench.results.frame import measured_frame

HEAD = "*Counted by `cakdbench`; changes by hand are overwritten.*"

HOW_COUNTED = f"""\
Counted on untrained models at 224 px with {CLASSES} classes, without data and without computing anything, so that the
page is the same on every machine. The versions of torch and timm do not matter as long as the networks are the same.

- **Parameters** are all that train beside the student, whether a module holds them or not.
- **MACs** are multiply-adds of one forward pass per image: convolutions and matrix products, attention's among them
  (what the papers call FLOPs). Norms, activations, softmax, pooling and sums are not counted, nor are backward
  passes.
- **Legacy** counts follow the rules of the counter the papers used (thop 0.1.1): calls of single layers by a list of
  types, norms and softmax included; attention products, position embeddings, class tokens and every weight that is
  used without calling its layer are not seen."""

SKEW = """\
**The printed comparison is skewed twice in favour of FBT.** OFA is counted with one block more a stage than its
released code builds. And FBT's Swin block uses the weight of its qkv projection without calling it, so that 3 D² of
its parameters, and its attention products, are invisible to the counter. What is not in the paper's figure at all is
the reused tail: after L2G, every training step of FBT runs the last token stage, norm and head of the other network,
forward and backward, frozen or not. It has no new parameters. How long it is depends on where a network of twelve equal
blocks is cut: the papers say "averagely" and also "following OFA", whose code cuts 2-2-6-2.

The modules behind the numbers, and the counter, are inferred: the papers name neither. L2G is counted with 6
heads; 8, with which this suite trains, fit the printed parameters as well."""

READING = """\
- *added modules*: MACs inside the modules a method brings along. *whole path*: everything a step computes in addition
  to the student's own pass: the added modules, parts of either network that run again, products in the losses. At
  batch 1, in eval mode. *per image of a batch*: the same in a local batch of the pair's recipe, where samples are
  compared with each other, and what is computed once a batch is shared.
- *teacher*: `shared`, the pass that is made once for all methods and in none of these numbers; `own`, the method runs
  the teacher on images of its own instead, which is in its path; `none`.
- *buffers*: MB (10^6 bytes) that are kept from step to step in buffers and extra state, after a step of one local
  batch: memories of the training set, feedback, running statistics.
- crd's path holds the products with its memories of all N training images, of which it picks K + 1 = 16,385: this
  needs less memory than gathering these rows, with which the products would be 4,194,560 MACs.
- Parameters of extra modules differ from those above where this suite trains what the paper does not count: FBT's class
  token, temperature, and the linear map between features of unlike width."""
MEASURED_NOTE = (
    "Means over runs of the same settings on the same device, of a method's own steps and evaluations; data and "
    "the shared teacher pass are left out. Speeds depend on the device, on versions and on what else ran: compare "
    "within one device. Peak memory is that of all students trained side by side."
)
COUNTED = {
    "classes": "classes",
    "student_parameters": "student params",
    "student_macs": "student MACs",
    "extra_parameters": "extra params",
    "added_macs": "added MACs",
    "path_macs": "path MACs",
    "batch_path_macs": "path MACs, batch",
    "local_batch": "local batch",
    "teacher_pass": "teacher pass",
    "buffers_mb": "buffers MB",
    "legacy_parameters": "legacy params",
    "legacy_macs": "legacy MACs",
    "legacy_student_parameters": "legacy student params",
    "legacy_student_macs": "legacy student MACs",
}
MEASURED = {
    "device": "device",
    "precision": "precision",
    "runs": "runs",
    "images_per_second": "images/s",
    "peak_memory_mb": "peak MB",
    "seconds": "time s",
    "gpu_hours": "GPU-hours",
    "energy_wh": "energy Wh",
}
"""Columns of the frames of costs, with their heads on pages."""
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
    sections = [*_counted(tuple(methods_in_order())), *_measured(records)]
    return Board("costs", "Training costs", tuple(sections))


def methods_board(costs: pd.DataFrame) -> Board:
    """Return a frame of `count_costs`, with or without measured columns, as a page."""
    columns = {"pair": "pair", "method": "method"} | COUNTED
    columns |= {name: head for name, head in MEASURED.items() if name in costs}
    text = "\n".join(f"- {plain(note)}" for note in _notes(costs))
    section = Section(label="Costs", frame=cost_table(costs, columns), footer=(text,) if text else ())
    return Board("costs", "Costs of methods", (section,))


def cost_table(costs: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return some columns of a frame of costs under other heads, with `n/a` where a method refuses the pair."""
    chosen = costs[[*columns]].astype(object)
    chosen = chosen.where(chosen.notna(), None)
    if "refusal" in costs:
        counts = [name for name in columns if name in COUNTED]
        chosen.loc[costs["refusal"].notna(), counts] = REFUSED
    if "buffers_mb" in chosen:
        chosen["buffers_mb"] = [x if isinstance(x, str) else round(x, 3) for x in chosen["buffers_mb"]]
    return chosen.rename(columns=columns)


@functools.lru_cache(maxsize=1)
def _counted(methods: tuple[type[Method], ...]) -> tuple[Section, ...]:
    """Return the sections that need no runs; the methods are in the last tables."""
    papers = paper_costs()
    about = Section(label="About", notes=(HEAD, HOW_COUNTED))
    return (about, _regenerated(papers), *_honest(papers), *_all_methods([method.id for method in methods]))


def _regenerated(papers: Sequence[PaperCosts]) -> Section:
    cells = [cell for costs in papers for cell in costs.cells]
    wrong = [cell for cell in cells if not cell.agrees]
    source = f"Printed: {SOURCE}. 10^6 parameters and 10^9 MACs, of the student and of the branches each method adds."
    agreement = (
        f"**{len(cells) - len(wrong)} of {len(cells)} printed numbers agree at the printed rounding** with the legacy "
        f"count of one set of modules. {' '.join(map(_disagreement, wrong))}"
    )
    heads = ["pair", "", "params: paper", "legacy count", "true", "MACs: paper", "legacy count", "true"]
    rows = [row for costs in papers for row in _paper_rows(costs)]
    return Section("The papers' table, regenerated", notes=(source, agreement), frame=table(heads, rows))


def _disagreement(cell: PrintedCell) -> str:
    return (
        f"The other is marked: {cell.part.upper()}'s {cell.quantity} on {_arrow(cell.pair)} are printed as "
        f"{cell.printed} and come to {number_text(cell.computed)}, which rounds to {cell.rounded}."
    )


def _paper_rows(costs: PaperCosts) -> Iterator[list[Cell | str | int]]:
    names = {"student": "student", "ofa": "OFA, 4-3-2-1 blocks", "fbt": "FBT, L2G"}
    for parameters, macs in zip(costs.cells[::2], costs.cells[1::2], strict=True):
        cost = costs.parts[parameters.part]
        row = [_arrow(costs.pair), names[parameters.part]]
        yield [*row, *_compared(parameters), cost.parameters, *_compared(macs), cost.macs]


def _compared(cell: PrintedCell) -> tuple[Cell | str, int]:
    if cell.agrees:
        return cell.printed, cell.computed
    return Cell(measured=float(cell.printed), best=True, marks=(f"✗ computed {cell.rounded}",)), cell.computed


def _honest(papers: Sequence[PaperCosts]) -> Iterator[Section]:
    note = "What the branches really have, and OFA as its released code builds it (3-2-1 blocks and one more):"
    yield Section("The honest table", notes=(note,), frame=table(RATIO_HEADS, map(_ratio_row, papers)))
    note = "With the part of the other network that runs after L2G in every step, forward MACs:"
    more = sum(_path(costs, "ofa") > costs.released["ofa"].macs for costs in papers)
    count = (
        "FBT adds fewer parameters than OFA on all pairs. Its added forward computation is above that of released OFA "
        f"on {more} of {len(papers)} pairs."
    )
    frame = table(PATH_HEADS, map(_path_row, papers))
    yield Section(label="The reused tail", notes=(note,), frame=frame, footer=(count, SKEW))


def _ratio_row(costs: PaperCosts) -> list[str | int]:
    ofa, l2g = costs.released["ofa"], costs.parts["fbt"]
    printed = {(cell.part, cell.quantity): float(cell.printed) for cell in costs.cells}
    ratios = [
        l2g.parameters / ofa.parameters,
        printed["fbt", "parameters"] / printed["ofa", "parameters"],
        l2g.macs / ofa.macs,
        printed["fbt", "MACs"] / printed["ofa", "MACs"],
    ]
    return [_arrow(costs.pair), ofa.parameters, ofa.macs, l2g.parameters, l2g.macs, *map(_percent, ratios)]


def _path_row(costs: PaperCosts) -> list[str | int]:
    row: list[str | int] = [_arrow(costs.pair), costs.released["ofa"].macs, costs.parts["fbt"].macs]
    for split in ("ofa", "even"):
        path = _path(costs, split)
        row += [costs.tails[split], path, _percent(path / costs.released["ofa"].macs)]
    return row


def _path(costs: PaperCosts, split: str) -> int:
    """Return the multiply-adds of L2G and the tail."""
    return costs.parts["fbt"].macs + costs.tails[split]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _all_methods(labels: Sequence[str]) -> Iterator[Section]:
    yield Section("All methods")
    costs = count_costs(labels, ",".join(PAIRS), num_classes=CLASSES)
    for pair, own in costs.groupby("pair", sort=False):
        columns = _method_columns(own)
        yield Section(_arrow(pair), 3, notes=(_pair_facts(own),), frame=cost_table(own, columns))
    notes = [f"- {plain(note)}." for note in _notes(costs)]
    yield Section(label="How to read", notes=("\n".join([READING, *notes]),))


def _method_columns(costs: pd.DataFrame) -> dict[str, str]:
    return {
        "method": "method",
        "extra_parameters": "extra params",
        "added_macs": "MACs: added modules",
        "path_macs": "whole path",
        "batch_path_macs": f"per image of a batch of {costs['local_batch'].dropna().iloc[0]}",
        "teacher_pass": "teacher",
        "buffers_mb": "buffers MB",
        "legacy_parameters": "legacy params",
        "legacy_macs": "legacy MACs",
    }


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


def _measured(records: Iterable[Record]) -> Iterator[Section]:
    """Yield nothing without runs."""
    means = measured_frame(records)
    if len(means):
        columns = {"pair": "pair", "recipe": "recipe", "method": "method"} | MEASURED
        yield Section("Measured", notes=(MEASURED_NOTE,), frame=cost_table(means, columns))


def _arrow(pair: str) -> str:
    """Return `deit_t → resnet18`."""
    return pair.partition("@")[0].replace(">", " → ")
