"""The training-cost table of FBT and TAS, to the integer."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.costs.bench import CountingBench
from cakdbench.costs.counting import zeros
from cakdbench.costs.legacy import ModuleCost, module_cost
from cakdbench.costs.papers import CLASSES, PAIRS, PrintedCell, paper_costs, paper_modules, printed_costs
from cakdbench.grid.suites import resolve_pairs
from cakdbench.methods.fbt import L2G
from cakdbench.models.staged import Layout

L2G_COSTS = {  # true parameters and MACs, legacy parameters and MACs
    PAIRS[0]: ModuleCost(498_630, 100_718_080, 387_648, 75_826_864),
    PAIRS[1]: ModuleCost(646_086, 129_619_456, 535_104, 104_728_240),
    PAIRS[2]: ModuleCost(1_926_534, 383_785_984, 1_483_392, 290_479_792),
}
OFA_TOTALS = {  # 10^6 true parameters, 10^9 true MACs, 10^6 legacy parameters, 10^9 legacy MACs, by classes
    (PAIRS[0], "paper", 1000): (4.9207, 0.0965, 4.9207, 0.0984),
    (PAIRS[0], "released", 1000): (3.0412, 0.0752, 3.0412, 0.0769),
    (PAIRS[0], "released", 100): (1.1944, 0.0733, 1.1944, 0.0751),
    (PAIRS[1], "paper", 1000): (5.8108, 0.2605, 5.8108, 0.2522),
    (PAIRS[1], "released", 1000): (4.4780, 0.1912, 4.4780, 0.1856),
    (PAIRS[1], "released", 100): (3.7832, 0.1905, 3.7832, 0.1849),
    (PAIRS[2], "paper", 1000): (21.6447, 1.0026, 21.6447, 0.9869),
    (PAIRS[2], "released", 1000): (16.3248, 0.7370, 16.3248, 0.7263),
    (PAIRS[2], "released", 100): (14.9388, 0.7356, 14.9388, 0.7249),
}
OFA_STAGES = {  # 10^6 true parameters, 10^6 true MACs, stages 1 to 4
    (PAIRS[0], "released"): [(0.7818, 30.994), (0.7680, 20.457), (0.7158, 10.372), (0.7757, 13.357)],
    (PAIRS[0], "paper"): [(1.3174, 39.530), (1.3035, 28.993), (1.2513, 18.908), (1.0486, 9.048)],
    (PAIRS[1], "released"): [(1.6749, 76.653), (1.2306, 53.574), (0.7863, 30.496), (0.7863, 30.496)],
    (PAIRS[1], "paper"): [(2.1191, 99.731), (1.6749, 76.653), (1.2306, 53.574), (0.7863, 30.496)],
    (PAIRS[2], "released"): [(6.2978, 294.930), (4.5245, 206.382), (2.7512, 117.833), (2.7512, 117.833)],
    (PAIRS[2], "paper"): [(8.0711, 383.478), (6.2978, 294.930), (4.5245, 206.382), (2.7512, 117.833)],
}
TAILS = {"ofa": (0.2043, 0.2043, 0.4923), "even": (0.3063, 0.3063, 0.7383)}  # 10^9 MACs
PATHS = {"ofa": (0.305, 0.334, 0.876), "even": (0.407, 0.436, 1.122)}


@functools.cache
def bench(pair, classes=CLASSES):
    return CountingBench(resolve_pairs(pair)[0], classes)


@pytest.fixture(scope="module")
def papers():
    return paper_costs()


@pytest.mark.parametrize("pair", PAIRS)
def test_fbts_module_has_the_integers_of_the_reconstruction(pair):
    assert paper_modules(bench(pair), "fbt")["paper"] == [L2G_COSTS[pair]]


@pytest.mark.parametrize("pair, depth, classes", OFA_TOTALS)
def test_ofas_branches_together(pair, depth, classes):
    branches = paper_modules(bench(pair, classes), "ofa")[depth]
    fields = (("parameters", 6), ("macs", 9), ("legacy_parameters", 6), ("legacy_macs", 9))
    found = tuple(round(sum(getattr(b, name) for b in branches) / 10**unit, 4) for name, unit in fields)
    assert found == OFA_TOTALS[pair, depth, classes]


@pytest.mark.parametrize("pair, depth", OFA_STAGES)
def test_ofas_branches_stage_by_stage(pair, depth):
    branches = paper_modules(bench(pair), "ofa")[depth]
    found = [(round(b.parameters / 1e6, 4), round(b.macs / 1e6, 3)) for b in branches]
    assert found == OFA_STAGES[pair, depth]


def test_seventeen_of_eighteen_cells_agree_and_the_other_is_known(papers):
    cells = [cell for costs in papers for cell in costs.cells]
    (wrong,) = [cell for cell in cells if not cell.agrees]
    assert len(cells) == 18
    assert (wrong.pair, wrong.part, wrong.quantity) == (PAIRS[0], "fbt", "MACs")
    assert (wrong.printed, wrong.computed, wrong.rounded) == ("0.07", 75_826_864, "0.08")
    assert [(cell.printed) for cell in cells[:6]] == ["11.69", "1.82", "4.92", "0.1", "0.39", "0.07"]
    assert set(printed_costs()) == set(PAIRS)
    assert printed_costs()[PAIRS[0]] == {"student": ("11.69", "1.82"), "ofa": ("4.92", "0.1"), "fbt": ("0.39", "0.07")}


@pytest.mark.parametrize(
    "printed, computed, agrees",
    [("0.07", 74_999_999, True), ("0.07", 75_000_000, False), ("0.1", 50_000_000, True), ("0.1", 149_999_999, True),
     ("0.10", 105_000_000, False), ("0.10", 104_999_999, True)],
)  # fmt: skip
def test_agreement_is_at_the_printed_digits_and_halves_round_up(printed, computed, agrees):
    assert PrintedCell(PAIRS[0], "fbt", "MACs", printed, computed).agrees is agrees


def test_the_reused_tail_and_the_whole_path(papers):
    for split in ("ofa", "even"):
        assert tuple(round(costs.tails[split] / 1e9, 4) for costs in papers) == TAILS[split]
        paths = [costs.parts["fbt"].macs + costs.tails[split] for costs in papers]
        assert tuple(round(path / 1e9, 3) for path in paths) == PATHS[split]
        assert all(path > costs.released["ofa"].macs for path, costs in zip(paths, papers, strict=True))


def test_only_methods_of_the_table_say_what_papers_count():
    assert paper_modules(bench(PAIRS[0]), "kd") == {}


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 600), st.sampled_from([(192, 6), (192, 8), (384, 6), (96, 3), (64, 4)]))
def test_the_closed_forms_of_fbts_module(channels, width_and_heads):
    c, (d, h) = channels, width_and_heads
    front, back = Layout(c, (14, 14), False), Layout(d, (14, 14), True)
    with torch.device("meta"):
        l2g = L2G(front, back, "swin", h, 7).eval()
    assert module_cost(l2g, zeros(1, c, 14, 14)) == ModuleCost(
        c * d + 12 * d**2 + 13 * d + 1536 + 513 * h,
        196 * (c * d + 12 * d**2) + 2 * 4 * 49**2 * d + 169 * (1024 + 512 * h),
        c * d + 9 * d**2 + 11 * d + 1536 + 512 * h,
        196 * (c * d + 9 * d**2) + 8 * 196 * d + 169 * (1024 + 512 * h) + 4 * h * 49 * 146,
    )
