"""The plots of a board: what their SVG says, read back, against numbers computed here."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.reports.figures import groups
from cakdbench.reports.plots import (
    REFUSED,
    board_plots,
    costs,
    curves,
    digest,
    draw,
    heat,
    pareto_front,
    plot_digest,
    ranks,
)
from tests.reports.boards import NUMBERS, A, B, M, answers, epochs, results, runs
from tests.reports.synthetic import TestRules, record

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [text for each in ElementTree.fromstring(svg).iter(f"{SVG}text") if (text := "".join(each.itertext()))]


def group(svg, id):
    """The marks and the path of a group, as numbers: x and y of every point."""
    (found,) = [each for each in ElementTree.fromstring(svg).iter(f"{SVG}g") if each.get("id") == id]
    uses = [(float(use.get("x")), float(use.get("y"))) for use in found.iter(f"{SVG}use")]
    return uses or [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", found[0].get("d"))]


@pytest.fixture(scope="module")
def full():
    return results(pairs=(A, B, M)).blocks[0]


class TestHeatmap:
    def test_it_names_every_method_and_pair_and_writes_every_gain(self, full):
        written = texts(draw("gain", heat(full)))
        assert {"KD", "OFA", "FBT", "swin_t →", "vit_s →"} <= set(written)
        assert sorted(text for text in written if text[0] in "+-") == sorted(
            f"{score.gain:+.2f}" for row in full.rows for score in row.scores if score.gain is not None
        )
        assert written.count("+2.00") == 3 and written.count("+10.10") == 2

    def test_refused_cells_say_so(self, full):
        assert heat(full).loc["FBT"].iloc[2] == REFUSED
        assert texts(draw("gain", heat(full))).count("n/a") == 1

    def test_cells_without_a_run_are_empty_and_pairs_without_any_left_out(self):
        records = runs(accuracies={"scratch": 70.0, "kd": 72.0}) + runs((A,), accuracies={"ofa": 80.0})
        shown = heat(results(records, (A, B, M)).blocks[0])
        assert list(shown) == ["swin_t → resnet18", "vit_s → mobilenetv2"]
        assert shown.loc["OFA"].iloc[1] is None

    def test_nothing_to_draw(self):
        assert heat(results([]).blocks[0]) is None
        assert heat(results(runs(accuracies={"scratch": 70.0})).blocks[0]) is None


class TestCost:
    def timed(self, **speeds):
        records = [each for label, speed in speeds.items() for each in self.of(label, speed)]
        return results(records)

    def of(self, label, speed):
        gains = {"scratch": 70.0, "kd": 72.0, "ofa": 80.0, "fbt": 75.0}
        return runs(accuracies={label: gains[label]}, images_per_second=speed)

    def test_costs_are_the_inverse_of_speed_and_the_front_is_what_none_beats(self):
        block = self.timed(scratch=600.0, kd=500.0, ofa=300.0, fbt=200.0).blocks[0]
        found = {point.method: point for point in costs(block).itertuples()}
        assert [found[name].cost for name in ("scratch", "KD", "OFA", "FBT")] == pytest.approx([1, 1.2, 2, 3])
        assert [found[name].gain for name in ("scratch", "KD", "OFA", "FBT")] == pytest.approx([0, 2, 10, 5])
        assert [name for name in found if found[name].front] == ["scratch", "KD", "OFA"]
        assert {"scratch", "KD", "OFA", "FBT"} <= set(texts(draw("cost", costs(block))))

    def test_points_stand_in_the_order_of_their_numbers(self):
        shown = costs(self.timed(scratch=600.0, kd=500.0, ofa=300.0, fbt=200.0).blocks[0])
        svg = draw("cost", shown)
        (scratch,), (kd,), (ofa,), (fbt,) = (group(svg, f"point-{n}") for n in range(4))
        assert list(shown["method"]) == ["scratch", "KD", "OFA", "FBT"]
        assert scratch[0] < kd[0] < ofa[0] < fbt[0]
        assert scratch[1] > kd[1] > fbt[1] > ofa[1]  # y runs down

    def test_times_of_another_device_do_not_count(self):
        records = self.of("scratch", 600.0) + runs(accuracies={"kd": 72.0}, images_per_second=6000.0, device="H200")
        assert costs(results(records).blocks[0]) is None

    def test_a_gain_over_fewer_pairs_is_beyond_comparison(self):
        records = [*self.of("scratch", 600.0), *self.of("kd", 500.0), *runs((A,), accuracies={"ofa": 99.0})]
        found = {point.method: point for point in costs(results(records).blocks[0]).itertuples()}
        assert (found["OFA"].whole, found["OFA"].front, found["KD"].front) == (False, False, True)

    @given(st.lists(st.tuples(st.integers(1, 6), st.integers(-4, 4)), min_size=1, max_size=12))
    @settings(deadline=None)
    def test_pareto_front(self, points):
        def beaten(one):
            return any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points)

        assert pareto_front(points) == {point for point in points if not beaten(point)}


class TestCurves:
    def test_means_and_bands_over_the_seeds(self):
        shown = curves(results(pairs=(A,)).blocks[0])
        kd = shown[shown["method"] == "KD"]
        assert set(shown["pair"]) == {"swin_t → resnet18"} and list(kd["epoch"]) == [1, 2, 3]
        assert list(kd["mean"]) == pytest.approx([52.1, 67.1, 72.1])
        assert list(kd["low"]) == pytest.approx([52.0, 67.0, 72.0])
        assert list(kd["high"]) == pytest.approx([52.2, 67.2, 72.2])
        assert list(shown.sort_values("look")["method"].unique()) == ["scratch", "KD", "FBT", "OFA"]

    def test_epochs_not_tested_in_all_seeds_are_left_out_and_long_ones_thinned(self):
        one = record("kd", A, 0, recipe=NUMBERS).model_copy(update={"history": epochs(1.0, None, 3.0, 4.0)})
        two = record("kd", A, 1, recipe=NUMBERS).model_copy(update={"history": epochs(1.0, 2.0, 3.0)})
        assert list(curves(results([one, two], (A,)).blocks[0])["epoch"]) == [1, 3]
        many = record("kd", A, 0, recipe=NUMBERS).model_copy(update={"history": epochs(*map(float, range(99)), 100.0)})
        line = curves(results([many], (A,)).blocks[0])
        assert len(line) == 50 and line["epoch"].iloc[-1] == 100 and line["mean"].iloc[-1] == 100.0

    def test_the_picture_names_what_stands_out(self):
        written = texts(draw("curves", curves(results().blocks[0])))
        assert {"scratch", "KD", "OFA", "FBT", "swin_t → resnet18", "vit_s → mobilenetv2"} <= set(written)

    def test_histories_of_one_epoch_are_not_drawn(self):
        assert curves(results([record("kd", A, recipe=NUMBERS)], (A,)).blocks[0]) is None


class TestRanks:
    def test_bars_join_exactly_what_cannot_be_told_apart(self):
        block = results(tests=answers).blocks[0]
        titles = {row.title: row.label for row in block.rows}
        shown = ranks(block)
        names = [titles[method] for method in shown["method"]]
        joined = {
            frozenset((names[a], names[b])) for places in groups(shown).values() for a, b in combinations(places, 2)
        }
        assert joined == set(block.standings.inseparable) and joined
        assert joined != {frozenset(pair) for pair in combinations(names, 2)}

    def test_bars_have_a_dot_at_each_member_and_letters_beside_them(self):
        block = results(tests=answers).blocks[0]
        svg, shown = draw("ranks", ranks(block)), ranks(block)
        assert list(shown["method"]) == ["FBT", "OFA", "KD", "scratch"]
        for letter, places in groups(shown).items():
            dots = [x for x, _ in group(svg, f"group-{letter}")]
            spread = [shown["rank"][place] - shown["rank"][places[0]] for place in places]
            assert len(dots) == len(places)
            scale = (dots[-1] - dots[0]) / spread[-1]
            assert [dots[0] + scale * each for each in spread] == pytest.approx(dots, abs=1e-3)
        for method, rank, letters in shown.itertuples(index=False):
            assert f"{method} {rank:.2f} {letters}" in texts(svg)

    def test_without_predictions_there_are_ranks_and_no_bars(self):
        block = results().blocks[0]
        assert groups(ranks(block)) == {} and list(ranks(block)["letters"]) == [""] * 4
        assert "FBT 1.00" in texts(draw("ranks", ranks(block)))

    def test_fewer_than_two_ranked_methods(self):
        assert ranks(results(runs(accuracies={"kd": 72.0})).blocks[0]) is None


class TestBoard:
    def test_every_plot_carries_its_digest_without_being_drawn(self):
        for name, plot in board_plots(results()).items():
            svg = plot.draw()
            assert plot_digest(svg) == plot.digest and name == plot.name and plot.caption and plot.alt
            assert svg == plot.draw()
            assert "<dc:date>" not in svg and "Matplotlib" not in svg
            assert ElementTree.fromstring(svg).find(f"{SVG}title").text == plot.alt

    def test_names_tell_blocks_apart(self):
        two = results(runs((A,)) + runs((A,), precision="bf16"), (A,))
        kinds = ("gain", "cost", "curves", "ranks")
        assert list(board_plots(two)) == [f"demo-{p}-{kind}.svg" for p in ("fp32", "bf16") for kind in kinds]
        other = "cnn_mini>vit_mini@demo"
        assert "demo-cifar100-fp32-gain.svg" in board_plots(results(runs((A, other)), (A, other)))
        assert board_plots(results([])) == {}

    def test_the_digest_changes_with_the_numbers_and_with_nothing_else(self):
        def digests(records):
            return {name: plot.digest for name, plot in board_plots(results(records)).items()}

        before = digests(runs())
        assert digests(runs()[::-1]) == before
        assert digests([r.model_copy(update={"weights_sha256": "0" * 64}) for r in runs()]) == before
        after = digests(runs(accuracies={"scratch": 70.0, "kd": 72.0, "ofa": 80.0, "fbt": 80.2}))
        assert {name for name in before if before[name] == after[name]} <= {"demo-fp32-ranks.svg"}

    @given(st.lists(st.floats(-20, 20), min_size=2, max_size=2, unique=True))
    @settings(deadline=None, max_examples=20)
    def test_equal_digests_mean_equal_numbers(self, gains):
        one, two = (heat(results(runs((A,), (0,), {"scratch": 50.0, "kd": 50.0 + g}), (A,)).blocks[0]) for g in gains)
        assert (digest("gain", one) == digest("gain", two)) == one.equals(two)

    def test_other_svg_has_no_digest(self):
        assert plot_digest("<svg/>") is None
        assert plot_digest("") is None

    def test_long_names_are_cut_in_the_middle(self):
        class Rules(TestRules):
            def title(self, label):
                return f"{label} {'very ' * 20}long"

        assert "kd very very very ve…y very long" in texts(draw("gain", heat(results(rules=Rules()).blocks[0])))

    def test_names_are_text_whatever_they_hold(self):
        class Rules(TestRules):
            def title(self, label):
                return f"<b>&$x_{label}$ \\frac</b>"

        written = texts(draw("gain", heat(results(rules=Rules()).blocks[0])))
        assert "<b>&$x_kd$ \\frac</b>" in written
