"""The training-cost table of FBT and TAS, and the modules it was counted on.

Printed values: FBT (Li et al., arXiv:2410.12342), appendix, Table 6, which TAS repeats as its Table 12; "FLOPs" there
are multiply-adds. Neither paper names its counter or its modules. They are inferred from the numbers: the rules of
`legacy`, 1000 classes, and

- for OFA the exit branches at all four stages with 4, 3, 2 and 1 blocks, one more a stage than the released code builds
  (`ofa:paper_depth`; a branch of a map has no 1x1 convolution then),
- for FBT a 1x1 convolution and one Swin-V2 block with 6 heads and window 7, without class token, temperature or the
  linear map between features of unlike width. Eight heads fit the parameters as well; this suite trains with 8.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import torch
from torch import nn

from cakdbench.costs.bench import CountingBench
from cakdbench.costs.counting import zeros
from cakdbench.costs.legacy import ModuleCost, module_cost
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.methods.fbt import FBT, L2G
from cakdbench.methods.ofa import OFA
from cakdbench.models.staged import Layout, StagedModel
from cakdbench.published.ledger import costs

SOURCE = "FBT (Li et al., 2025, arXiv:2410.12342), appendix, Table 6; the same in TAS, Table 12"
PAIRS = ("deit_t>resnet18@imagenet1k", "resnet50>deit_t@imagenet1k", "convnext_t>resmlp_s12@imagenet1k")
CLASSES, HEADS, WINDOW = 1000, 6, 7


@functools.cache
def printed_costs() -> dict[str, dict[str, tuple[str, str]]]:
    """As printed, by pair: 10^6 parameters and 10^9 multiply-adds of the student and of OFA's and FBT's branches."""
    found = {}
    for pair in PAIRS:
        rows = [
            row for row in costs() if row.source == "fbt-appendix" and pair.startswith(f"{row.teacher}>{row.student}@")
        ]
        branches = {row.branch: (row.params_m, row.flops_g) for row in rows}
        student = rows[0].student_params_m, rows[0].student_flops_g
        found[pair] = {"student": student, "OFA": branches["ofa"], "FBT": branches["fbt"]}
    return found


@dataclass(frozen=True)
class PrintedCell:
    """A number of the table and what the legacy rules give.

    Attributes:
        part: `student`, `OFA` or `FBT` (the branches).
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
        """What is computed, rounded (half up) to the digits that are printed."""
        digits = Decimal(self.printed)
        unit = 10**6 if self.quantity == "parameters" else 10**9
        return str((Decimal(self.computed) / unit).quantize(digits, ROUND_HALF_UP))

    @property
    def agrees(self) -> bool:
        return self.rounded == self.printed


@dataclass(frozen=True)
class PaperCosts:
    """What the table is about, on one pair.

    Attributes:
        student: the student.
        ofa_paper: OFA's branches as the papers counted them.
        ofa_released: OFA's branches as the released code builds them.
        l2g: FBT's module as reconstructed.
        tails: multiply-adds of what FBT runs again after it (last token stage, norm and head), by `split`.
    """

    pair: str
    student: ModuleCost
    ofa_paper: ModuleCost
    ofa_released: ModuleCost
    l2g: ModuleCost
    tails: dict[str, int]

    def fbt_path(self, split: str) -> int:
        """Multiply-adds of L2G and the tail."""
        return self.l2g.macs + self.tails[split]

    @property
    def cells(self) -> list[PrintedCell]:
        """The printed numbers of the pair."""
        counted = {"student": self.student, "OFA": self.ofa_paper, "FBT": self.l2g}
        found = []
        for part, (parameters, macs) in printed_costs()[self.pair].items():
            cost = counted[part]
            found.append(PrintedCell(self.pair, part, "parameters", parameters, cost.legacy_parameters))
            found.append(PrintedCell(self.pair, part, "MACs", macs, cost.legacy_macs))
        return found


def paper_costs() -> list[PaperCosts]:
    """The three pairs of the table; their 18 cells are `cells` of each."""
    return [_costs_on(resolve_pairs(pair)[0]) for pair in PAIRS]


def _costs_on(spec: PairSpec) -> PaperCosts:
    bench = CountingBench(spec, CLASSES)
    return PaperCosts(
        pair=str(spec.pair),
        student=bench.student_cost,
        ofa_paper=_sum(ofa_branches(bench, "paper")),
        ofa_released=_sum(ofa_branches(bench, "released")),
        l2g=l2g_cost(bench),
        tails={split: reused_tail(bench, split) for split in ("ofa", "even")},
    )


def ofa_branches(bench: CountingBench, depth: str) -> list[ModuleCost]:
    """OFA's branches at stages 1 to 4.

    Args:
        depth: `released`, or `paper` as the table was counted.
    """
    with bench.device:
        branches = OFA(bench.student, bench.teacher, OFA.Config(depth=depth)).eval().branches
    layouts = bench.student.layouts
    return [_on_layout(branches[str(stage)], layout) for stage, layout in enumerate(layouts, 1)]


def l2g_cost(bench: CountingBench, heads: int = HEADS, window: int = WINDOW) -> ModuleCost:
    """FBT's module between the front's stage 3 and the back's stage 4, without a class token."""
    front, back = _front_and_back(bench)
    with bench.device:
        l2g = L2G(front.layouts[2], back.layouts[2], "swin", heads, window).eval()
    return _on_layout(l2g, front.layouts[2])


def reused_tail(bench: CountingBench, split: str) -> int:
    """Multiply-adds of the back's stage 4, final norm and head: no new parameters, and a part of every step of FBT."""
    _, back = _front_and_back(bench)
    cut = back if split == bench.split else bench.model(back.name, split)
    return _on_layout(_Tail(cut), cut.layouts[2]).macs


class _Tail(nn.Module):
    def __init__(self, back: StagedModel):
        super().__init__()
        self.back = back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back.head(self.back.stage(4, x)).logits


def _front_and_back(bench: CountingBench) -> tuple[StagedModel, StagedModel]:
    pair = bench.student, bench.teacher
    return pair if FBT.Config().fronts_student(bench.teacher, bench.student) else pair[::-1]


def _on_layout(module: nn.Module, layout: Layout) -> ModuleCost:
    return module_cost(module, zeros(1, *layout.shape))


def _sum(costs: list[ModuleCost]) -> ModuleCost:
    return sum(costs[1:], costs[0])
