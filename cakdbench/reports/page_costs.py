"""The page `leaderboards/costs.md`: the papers' training-cost table, the honest one beside it, and all methods."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

from cakdbench.costs.measured import measured
from cakdbench.costs.method_costs import MethodCost, method_costs
from cakdbench.costs.papers import CLASSES, HEADS, PAIRS, SOURCE, PaperCosts, PrintedCell, paper_costs
from cakdbench.costs.tables import MEASURED, REFUSED, Value, differing, markdown_table, shown
from cakdbench.grid.plan import Refusal
from cakdbench.grid.suites import resolve_pairs
from cakdbench.method import Method
from cakdbench.records import Record
from cakdbench.registry import methods_in_order
from cakdbench.reports.markup import plain

COUNTED = f"""\
Counted on untrained models at 224 px with {CLASSES} classes, without data and without computing anything, so that the
page is the same on every machine. The versions of torch and timm do not matter as long as the networks are the same.

- **Parameters** are all that train beside the student, whether a module holds them or not.
- **MACs** are multiply-adds of one forward pass per image: convolutions and matrix products, attention's among them
  (what the papers call FLOPs). Norms, activations, softmax, pooling and sums are not counted, nor are backward
  passes.
- **Legacy** counts follow the rules of the counter the papers used (thop 0.1.1): calls of single layers by a list of
  types, norms and softmax included; attention products, position embeddings, class tokens and every weight that is
  used without calling its layer are not seen."""

SKEW = f"""\
**The printed comparison is skewed twice in favour of FBT.** OFA is counted with one block more a stage than its
released code builds. And FBT's Swin block uses the weight of its qkv projection without calling it, so that 3 D² of
its parameters, and its attention products, are invisible to the counter. What is not in the paper's figure at all is
the reused tail: after L2G, every training step of FBT runs the last token stage, norm and head of the other network,
forward and backward, frozen or not. It has no new parameters. How long it is depends on where a network of twelve equal
blocks is cut: the papers say "averagely" and also "following OFA", whose code cuts 2-2-6-2.

The modules behind the numbers, and the counter, are inferred: the papers name neither. L2G is counted with {HEADS}
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


def costs_markdown(records: Iterable[Record] = ()) -> str:
    """The page; equal records give equal bytes. Counting takes about a minute of one core, once a process.

    Args:
        records: finished runs; what they measured is a table of its own.
    """
    return "\n\n".join([_counted(tuple(methods_in_order())), *_measured(records)]) + "\n"


@functools.lru_cache(maxsize=1)
def _counted(methods: tuple[type[Method], ...]) -> str:
    """All of the page that needs no runs; the methods are in its last table."""
    papers = paper_costs()
    parts = [
        "# Training costs",
        "*Counted by `cakdbench`; changes by hand are overwritten.*",
        COUNTED,
        "## The papers' table, regenerated",
        *_regenerated(papers),
        "## The honest table",
        *_honest(papers),
        SKEW,
        "## All methods",
        *_all_methods([method.id for method in methods]),
    ]
    return "\n\n".join(parts)


def _regenerated(papers: Sequence[PaperCosts]) -> Iterator[str]:
    cells = [cell for costs in papers for cell in costs.cells]
    wrong = [cell for cell in cells if not cell.agrees]
    yield f"Printed: {SOURCE}. 10^6 parameters and 10^9 MACs, of the student and of the branches each method adds."
    yield (
        f"**{len(cells) - len(wrong)} of {len(cells)} printed numbers agree at the printed rounding** with the legacy "
        f"count of one set of modules. {' '.join(map(_disagreement, wrong))}"
    )
    heads = ["pair", "", "params: paper", "legacy count", "true", "MACs: paper", "legacy count", "true"]
    rows = [row for costs in papers for row in _paper_rows(costs)]
    yield markdown_table(heads, rows)


def _disagreement(cell: PrintedCell) -> str:
    return (
        f"The other is marked: {cell.part}'s {cell.quantity} on {_arrow(cell.pair)} are printed as {cell.printed} and "
        f"come to {shown(cell.computed)}, which rounds to {cell.rounded}."
    )


def _paper_rows(costs: PaperCosts) -> Iterator[list[Value]]:
    counted = {"student": costs.student, "OFA": costs.ofa_paper, "FBT": costs.l2g}
    names = {"student": "student", "OFA": "OFA, 4-3-2-1 blocks", "FBT": "FBT, L2G"}
    for parameters, macs in zip(costs.cells[::2], costs.cells[1::2], strict=True):
        cost = counted[parameters.part]
        row = [_arrow(costs.pair), names[parameters.part], *_compared(parameters), cost.parameters]
        yield [*row, *_compared(macs), cost.macs]


def _compared(cell: PrintedCell) -> tuple[str, Value]:
    printed = cell.printed if cell.agrees else f"**{cell.printed}** ✗ computed {cell.rounded}"
    return printed, cell.computed


def _honest(papers: Sequence[PaperCosts]) -> Iterator[str]:
    yield "What the branches really have, and OFA as its released code builds it (3-2-1 blocks and one more):"
    heads = ["pair", "OFA released: params", "MACs", "FBT L2G: params", "MACs"]
    heads += ["L2G / OFA, params", "as printed", "L2G / OFA, MACs", "as printed"]
    yield markdown_table(heads, [_ratio_row(costs) for costs in papers])
    yield "With the part of the other network that runs after L2G in every step, forward MACs:"
    heads = ["pair", "OFA released", "FBT L2G", "tail, 2 of 12 blocks", "path", "path / OFA"]
    heads += ["tail, 3 of 12 blocks", "path", "path / OFA"]
    yield markdown_table(heads, [_path_row(costs) for costs in papers])
    more = sum(costs.fbt_path("ofa") > costs.ofa_released.macs for costs in papers)
    yield (
        f"FBT adds fewer parameters than OFA on all pairs. Its added forward computation is above that of released OFA "
        f"on {more} of {len(papers)} pairs."
    )


def _ratio_row(costs: PaperCosts) -> list[Value]:
    ofa, l2g = costs.ofa_released, costs.l2g
    printed = {(cell.part, cell.quantity): float(cell.printed) for cell in costs.cells}
    ratios = [
        _percent(l2g.parameters / ofa.parameters),
        _percent(printed["FBT", "parameters"] / printed["OFA", "parameters"]),
        _percent(l2g.macs / ofa.macs),
        _percent(printed["FBT", "MACs"] / printed["OFA", "MACs"]),
    ]
    return [_arrow(costs.pair), ofa.parameters, ofa.macs, l2g.parameters, l2g.macs, *ratios]


def _path_row(costs: PaperCosts) -> list[Value]:
    row: list[Value] = [_arrow(costs.pair), costs.ofa_released.macs, costs.l2g.macs]
    for split in ("ofa", "even"):
        path = costs.fbt_path(split)
        row += [costs.tails[split], path, _percent(path / costs.ofa_released.macs)]
    return row


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _all_methods(labels: Sequence[str]) -> Iterator[str]:
    notes: list[str] = []
    for spec in resolve_pairs(",".join(PAIRS)):
        costs = list(method_costs(labels, [spec], CLASSES))
        yield f"### {_arrow(str(spec.pair))}"
        yield _pair_facts(next(cost for cost in costs if isinstance(cost, MethodCost)))
        yield _method_table(costs)
        for cost in costs:
            refused = isinstance(cost, Refusal)
            notes += [f"{REFUSED}: {cost.label} on {cost.pair}: {cost.reason}"] if refused else differing(cost)
    yield "\n".join([READING, *(f"- {plain(note)}." for note in notes)])


def _pair_facts(cost: MethodCost) -> str:
    return (
        f"Student: {cost.student_parameters:,} parameters, {cost.student_macs:,} MACs "
        f"(legacy {cost.legacy_student_parameters:,} and {cost.legacy_student_macs:,}). "
        f"Teacher: {cost.teacher_parameters:,} parameters, {cost.teacher_macs:,} MACs."
    )


def _method_table(costs: Sequence[MethodCost | Refusal]) -> str:
    local = next(cost.local_batch for cost in costs if isinstance(cost, MethodCost))
    heads = [
        "method",
        "extra params",
        "MACs: added modules",
        "whole path",
        f"per image of a batch of {local}",
        "teacher",
    ]
    heads += ["buffers MB", "legacy params", "legacy MACs"]
    return markdown_table(heads, [_method_row(cost, len(heads)) for cost in costs])


def _method_row(cost: MethodCost | Refusal, width: int) -> list[Value]:
    if isinstance(cost, Refusal):
        return [cost.label, *[REFUSED] * (width - 1)]
    counted = [cost.extra_parameters, cost.added_macs, cost.path_macs, cost.batch_path_macs]
    kept = [cost.teacher_pass, round(cost.buffers_mb, 3), cost.legacy_parameters, cost.legacy_macs]
    return [cost.label, *counted, *kept]


def _measured(records: Iterable[Record]) -> Iterator[str]:
    """Nothing without runs."""
    seen = measured(records)
    if not seen:
        return
    yield "## Measured"
    yield (
        "Means over runs of the same settings on the same device, of a method's own steps and evaluations; data and "
        "the shared teacher pass are left out. Speeds depend on the device, on versions and on what else ran: compare "
        "within one device. Peak memory is that of all students trained side by side."
    )
    heads = ["pair", "recipe", "method", *MEASURED]
    rows = [[each.pair, each.recipe, each.label, *(value(each) for value in MEASURED.values())] for each in seen]
    yield markdown_table(heads, rows)


def _arrow(pair: str) -> str:
    """`deit_t → resnet18`."""
    return pair.partition("@")[0].replace(">", " → ")
