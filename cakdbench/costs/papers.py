"""The training-cost table of FBT and TAS, counted again.

Printed values: FBT (Li et al., arXiv:2410.12342), appendix, Table 6, which TAS repeats as its Table 12; "FLOPs" there
are multiply-adds. Neither paper names its counter or its modules. They are inferred from the numbers: the rules of
`legacy`, 1000 classes, and what the methods themselves say that tables count of them, `Method.paper_modules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from cakdbench.costs.bench import CountingBench
from cakdbench.costs.counting import zeros
from cakdbench.costs.legacy import ModuleCost, module_cost
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.published.ledger import costs
from cakdbench.registry import get_method

SOURCE = "FBT (Li et al., 2025, arXiv:2410.12342), appendix, Table 6; the same in TAS, Table 12"
PAIRS = ("deit_t>resnet18@imagenet1k", "resnet50>deit_t@imagenet1k", "convnext_t>resmlp_s12@imagenet1k")
CLASSES = 1000


@cache
def printed_costs() -> dict[str, dict[str, tuple[str, str]]]:
    """Return the printed 10^6 parameters and 10^9 multiply-adds of `student` and methods' branches, by pair."""
    rows = [row for row in costs() if row.source == "fbt-appendix"]
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    for pair in PAIRS:
        own = [row for row in rows if f"{row.teacher}>{row.student}" == pair.partition("@")[0]]
        own.sort(key=lambda row: -float(row.params_m))
        tables[pair] = {"student": (own[0].student_params_m, own[0].student_flops_g)}
        tables[pair] |= {row.branch: (row.params_m, row.flops_g) for row in own}
    return tables


@dataclass(frozen=True)
class PrintedCell:
    """A number of the table, and the count by the legacy rules.

    Attributes:
        part: `student`, or the method whose branch it is.
        quantity: `parameters` or `MACs`.
        printed: with the digits of the paper, in 10^6 parameters or 10^9 MACs.
    """

    pair: str
    part: str
    quantity: str
    printed: str
    computed: int

    @property
    def rounded(self) -> str:
        """Return the count, rounded (half up) to the printed digits."""
        unit = 10**6 if self.quantity == "parameters" else 10**9
        return str((Decimal(self.computed) / unit).quantize(Decimal(self.printed), ROUND_HALF_UP))

    @property
    def agrees(self) -> bool:
        return self.rounded == self.printed


@dataclass(frozen=True)
class PaperCosts:
    """The table's numbers of one pair, counted.

    Attributes:
        parts: the student, and the branches of each method as the papers count them.
        released: branches as released code builds them, of the methods where that differs.
        tails: multiply-adds that a method runs again, by how networks of equal blocks are cut (`split`).
    """

    pair: str
    parts: Mapping[str, ModuleCost]
    released: Mapping[str, ModuleCost]
    tails: Mapping[str, int]

    @property
    def cells(self) -> list[PrintedCell]:
        """Return the printed numbers of the pair."""
        cells = []
        for part, (parameters, macs) in printed_costs()[self.pair].items():
            cost = self.parts[part]
            cells.append(PrintedCell(self.pair, part, "parameters", parameters, cost.legacy_parameters))
            cells.append(PrintedCell(self.pair, part, "MACs", macs, cost.legacy_macs))
        return cells


@cache
def paper_costs() -> tuple[PaperCosts, ...]:
    """Count the three pairs of the table; their 18 cells are `cells` of each."""
    return tuple(_costs_on(resolve_pairs(pair)[0]) for pair in PAIRS)


def _costs_on(spec: PairSpec) -> PaperCosts:
    bench, pair = CountingBench(spec, CLASSES), str(spec.pair)
    modules = {method: paper_modules(bench, method) for method in printed_costs()[pair] if method != "student"}
    parts = {method: sum_costs(costs["paper"]) for method, costs in modules.items()}
    released = {method: sum_costs(costs["released"]) for method, costs in modules.items() if "released" in costs}
    tails = {}
    for split in ("ofa", "even"):
        cut = CountingBench(spec, CLASSES, split)
        tails[split] = sum(cost.macs for method in modules for cost in paper_modules(cut, method).get("tail", []))
    return PaperCosts(pair, {"student": bench.student_cost} | parts, released, tails)


def paper_modules(bench: CountingBench, method: str) -> dict[str, list[ModuleCost]]:
    """Count the method's `paper_modules` on a pair, by their names."""
    with bench.device:
        modules = get_method(method).paper_modules(bench.student, bench.teacher)
    return {
        name: [module_cost(module, zeros(1, *layout.shape)) for module, layout in parts]
        for name, parts in modules.items()
    }


def sum_costs(costs: list[ModuleCost]) -> ModuleCost:
    return sum(costs, ModuleCost(0, 0, 0, 0))
