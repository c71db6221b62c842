"""The markdown page of a board, read back the way a browser shows it."""

import random
import shlex
from itertools import pairwise

import numpy as np
import pytest

from cakdbench.reports.blocks import board_results
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.missing import commands
from cakdbench.reports.sections import board_of
from cakdbench.reports.text import points, span
from cakdbench.submissions.entry import ExternalEntry
from tests.reports.boards import NUMBERS
from tests.reports.pages import main_table, tables
from tests.reports.synthetic import CONFIGS, RECIPE, TestRules, column, printed, record

A, B, C = "cnn_mini>vit_mini@demo", "msa_mini>vit_mini@demo", "cnn_mini>mlp_mini@demo"
HEAD_A, HEAD_C = "cnn_mini → vit_mini", "cnn_mini → mlp_mini"


def page(records, pairs=(A,), **changes):
    columns = [column(pair, **changes) for pair in pairs]
    return board_markdown(board_of(board_results("demo", "Demo", columns, records, TestRules())))


def grid(pairs=(A, C), seeds=(0, 1), methods=("scratch", "kd", "ofa")):
    gains = dict(zip(CONFIGS, (0.0, 1.0, 2.0, 3.0, 4.0), strict=True))
    return [record(m, p, s, 80.0 + gains[m] + s) for p in pairs for m in methods for s in seeds]


def section(text, title):
    """The text below a heading, up to the next one."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip("#").strip().startswith(title))
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("#")), len(lines))
    return "\n".join(lines[start + 1 : end])


class TestMainTable:
    def test_cells(self):
        table = main_table(page(grid(), (A, C)))
        assert list(table) == ["teacher", "scratch", "KD", "OFA"]
        assert table["teacher"][HEAD_A] == "90.00"
        assert table["scratch"] == {
            HEAD_A: "80.50 ± 0.71",
            HEAD_C: "80.50 ± 0.71",
            "average gain": "",
            "rank": "–",
            "group": "–",
            "seeds": "2",
        }
        assert table["KD"][HEAD_A] == "81.50 ± 0.71 (+1.00)"
        assert table["OFA"]["average gain"] == "+2.00"

    def test_one_seed_prints_no_sd(self):
        text = page(grid(seeds=(4,)), (A, C))
        assert main_table(text)["KD"] == {
            HEAD_A: "85.00 (+1.00)",
            HEAD_C: "85.00 (+1.00)",
            "average gain": "+1.00",
            "rank": "–",
            "group": "–",
            "seeds": "1",
        }
        assert not any("±" in cell for table in tables(text) for row in table for cell in row)

    def test_cells_of_different_n_say_so(self):
        records = [
            r
            for r in grid()
            if not (r.identity.method.id == "kd" and r.identity.seed and r.identity.student == "vit_mini")
        ]
        row = main_table(page(records, (A, C)))["KD"]
        assert (row[HEAD_A], row[HEAD_C], row["seeds"]) == (
            "81.00 (+1.00) n=1",
            "81.50 ± 0.71 (+1.00) n=2",
            "1 to 2",
        )

    def test_a_gain_over_fewer_seeds_is_marked_and_explained(self):
        text = page([*grid((A,)), record("kd", A, 5, 90.0)])
        assert main_table(text)["KD"][HEAD_A].endswith("(+1.00) ‡")
        assert "‡ gain over the seeds that scratch has too" in text
        assert "‡" not in page(grid((A,)))

    def test_an_allowed_teacher_mismatch_is_marked_and_explained(self):
        text = page([*grid((A,)), record("fbt", A, 0, 85.0, mismatch=True)])
        table = main_table(text)
        assert table["FBT"][HEAD_A] == "85.00 (+5.00) †"
        assert table["teacher"][HEAD_A] == "90.00 †"
        assert "†" not in table["KD"][HEAD_A]
        assert "† the teacher's accuracy was off" in text

    def test_an_average_over_fewer_pairs_says_so(self):
        table = main_table(page([*grid(), record("fbt", A, 0, 83.0), record("fbt", A, 1, 84.0)], (A, C)))
        assert table["FBT"]["average gain"] == "+3.00 (1 of 2 pairs)"
        assert table["FBT"][HEAD_C] == "n/a"

    def test_missing_and_refused_cells(self):
        records = [*grid(methods=("scratch", "kd")), record("ofa", A), record("fbt", A)]
        text = page(records, (A, C))
        table = main_table(text)
        assert (table["OFA"][HEAD_C], table["FBT"][HEAD_C]) == ("–", "n/a")
        assert "- – not measured yet" in text
        assert "- n/a fbt needs four stages of four sizes: fbt on cnn_mini>mlp_mini@demo" in text

    def test_a_variant_is_named_by_title_and_label(self):
        assert "FBT: no_infonce fbt:no_infonce" in main_table(page([record("fbt:no_infonce", A)]))

    def test_heads_name_the_recipe_only_where_it_differs_and_datasets_have_blocks_of_their_own(self):
        first, second = "a>b@one", "a>b@two"
        columns = [column(first), column(second), column(second, "long", RECIPE | {"epochs": 20})]
        records = [record("kd", first), record("kd", second)]
        records.append(record("kd", second, recipe=RECIPE | {"epochs": 20}, recipe_name="long"))
        text = board_markdown(board_of(board_results("x", "X", columns, records, TestRules())))
        one, two = text.split("## two\n")
        assert "## one\n" in one
        assert list(main_table(one)["KD"])[:2] == ["a → b", "average gain"]
        assert list(main_table(two)["KD"])[:2] == ["a → b\ndemo", "a → b\nlong"]

    def test_nothing_reads_as_nan_or_none(self):
        strange = [record("kd", A, 3, float("nan")), record("ofa", B, 0, 85.0, ema=None)]
        text = page([*grid(), *strange], (A, B, C)).lower()
        assert "nan" not in text.replace("nan (", "").split("runs with changed settings")[0]
        assert "none" not in text

    def test_an_empty_board(self):
        text = page([], (A, C))
        table = main_table(text)
        assert list(table) == ["teacher", "scratch", "KD"]
        assert {cell for row in table.values() for cell in row.values()} == {"–", ""}
        assert "12 runs" in section(text, "Not measured yet")


class TestBeside:
    def test_changed_runs_stand_in_their_own_section(self):
        text = page([*grid((A,)), record("kd", A, 0, 12.34, recipe=RECIPE | {"epochs": 1})])
        before, after = text.split("## Runs with changed settings (not comparable)")
        assert "12.34" not in before
        (table,) = tables(after)
        assert table[1] == ["kd", A, "0", "fp32", "12.34", "recipe.epochs = 1 (standard 8)"]

    def test_external_numbers_stand_apart(self):
        entry = ExternalEntry(
            method="KD", pair=A, metric="best epoch", accuracy=85.125, seeds=3, differences=("300 epochs",),
            source="https://example.org/paper", submitted_by="A. Author",
        )  # fmt: skip
        board = board_results("x", "X", [column(A)], grid((A,)), TestRules(), external=(entry,))
        before, after = board_markdown(board_of(board)).split("## Measured with other code")
        assert "85.1" not in before
        (table,) = tables(after)
        assert table[1] == ["KD", A, "85.12", "best epoch", "3", "300 epochs", "https://example.org/paper", "A. Author"]

    def test_other_recipes_are_counted(self):
        text = page([record("kd", A, recipe=RECIPE | {"epochs": 99}, recipe_name="mine")])
        assert "under other recipes, not shown here: `mine` (1)." in text

    def test_optimistic_numbers_are_apart_and_named(self):
        text = page([record("kd", A, 0, 81.0, optimistic=88.88), record("kd", A, 1, 82.0, optimistic=89.0)])
        (table,) = tables(section(text, "Optimistic numbers (best epoch on the test set)"))
        assert table == [["method", HEAD_A], ["KD", "88.94"]]
        assert text.count("88.94") == 1

    def test_ema_is_shown_where_there_is_any(self):
        text = page([record("kd", A, 0, 81.0, ema=85.0), record("kd", A, 1, 82.0, ema=86.0), record("ofa", A)])
        (table,) = tables(section(text, "Averaged weights (EMA"))
        assert table[1:] == [["KD", "85.50"], ["OFA", "–"]]
        assert "EMA" not in page(grid())

    def test_top5_stands_where_papers_print_it(self):
        own, other = "swin_t>resnet18@cifar100", "vit_s>resnet18@cifar100"
        values = {
            own: {
                "kd": (printed("94.62", pair=own, metric="top5"), printed("80.00", pair=own)),
                "afd": (printed("80.00", "afd", pair=own),),
            }
        }
        columns, records = [column(own, numbers=NUMBERS), column(other, numbers=NUMBERS)], []
        for pair in (own, other):
            records += [record(label, pair, recipe=NUMBERS) for label in ("kd", "ofa")]
        made = board_markdown(board_of(board_results("x", "X", columns, records, TestRules(values))))
        (table,) = tables(section(made, "Top-5 accuracy"))
        assert table[:3] == [["method", "swin_t → resnet18"], ["teacher", "–"], ["KD", "99.00\n94.62 T"]]
        assert [row[0] for row in table[3:]] == ["OFA"]
        assert "Top-5" not in page(grid())

    def test_certainty(self):
        (table,) = tables(section(page(grid((A,), seeds=(0,))), "How sure"))
        # Scratch is nearest to 50 %: sqrt(0.8 * 0.2 / 2000) = 0.894 points; 1.96 * sqrt(2) times that is 2.479.
        assert table[1] == [HEAD_A, "2,000", "0.05", "0.89", "2.48"]

    def test_certainty_counts_the_images_that_were_tested(self):
        results = board_results(
            "demo", "Demo", [column(A)], grid((A,), seeds=(0,)), TestRules(), lambda key: np.ones(1600, bool)
        )
        (table,) = tables(section(board_markdown(board_of(results)), "How sure"))
        assert table[1] == [HEAD_A, "1,600", "0.0625", "1.00", "2.77"]

    def test_conditions(self):
        records = [record("kd", A, s, device=d, seconds=t) for s, d, t in ((0, "H200", 10.0), (1, "CPU", 30.0))]
        text = page([*records, record("ofa", A, compiled=True, peak_memory_mb=1234.4)])
        protocol, runs = tables(section(text, "Conditions"))
        assert protocol[1][1:6] == ["demo ffffffff", "demo", "8", "128 (128)", "64"]
        assert protocol[1][6].startswith("trained: demo_teacher ") and protocol[1][6].endswith("entry says 90.00")
        cells = {row[0]: dict(zip(runs[0], row, strict=True)) for row in runs[1:]}
        assert (cells["kd"]["device"], cells["kd"]["time s"], cells["kd"]["peak MB"]) == ("CPU, H200", "20", "–")
        assert (cells["ofa"]["options"], cells["ofa"]["peak MB"]) == ("compiled", "1,234")
        assert (cells["ofa"]["extra parameters"], cells["kd"]["student parameters"]) == ("20,000", "1,000,000")
        assert "Versions: timm 1.0.31, torch 2.9." in text

    def test_images_left_out_stand_in_the_conditions(self):
        whole = record("kd", A)
        dataset = whole.identity.dataset.model_copy(update={"skipped": 3})
        part = whole.model_copy(update={"identity": whole.identity.model_copy(update={"dataset": dataset})})
        for run, words in ((whole, "demo ffffffff"), (part, "demo ffffffff (unreadable and left out: 3)")):
            assert tables(section(page([run]), "Conditions"))[0][1][1] == words

    def test_the_order_of_classes_of_ones_own_stands_in_the_conditions(self):
        run = record("kd", A).model_copy(update={"class_names": ("Cat", "ant|", "bee")})
        assert "demo `ffffffff` (classes: Cat, ant\\|, bee)" in section(page([run]), "Conditions")

    def test_versions_that_differ_are_all_named(self):
        records = [record("kd", A, 0), record("kd", A, 1), record("ofa", A, 0, versions={"torch": "2.6"})]
        assert "Versions: 2 runs with timm 1.0.31, torch 2.9; 1 runs with torch 2.6." in page(records)

    def test_precisions_have_headings_and_no_heading_level_is_left_out(self):
        text = page([*grid((A,)), record("kd", A, 0, 70.0, precision="bf16")])
        assert text.index("## Precision: fp32") < text.index("## Precision: bf16") < text.index("70.00")
        assert "Precision: fp32\n" not in page(grid())
        for written in (text, page(grid())):
            levels = [len(line) - len(line.lstrip("#")) for line in written.splitlines() if line.startswith("#")]
            assert all(after <= before + 1 for before, after in pairwise(levels))


class TestCommands:
    def missing(self, records, pairs):
        return board_results("demo", "Demo", [column(p) for p in pairs], records, TestRules()).missing

    def parsed(self, line):
        words = shlex.split(line)
        assert words[:2] == ["cakdbench", "run"]
        return dict(zip(words[2::2], words[3::2], strict=True))

    def test_they_name_every_missing_run_once(self):
        rng = random.Random(3)
        records = [r for r in grid((A, B, C), (0, 1, 2), tuple(CONFIGS)) if rng.random() < 0.5]
        missing = self.missing(records, (A, B, C))
        named = []
        for options in map(self.parsed, commands(missing)):
            assert options["--recipe"] == "demo" and "--precision" not in options
            named += [
                (method, pair, int(seed))
                for method in options["--methods"].split(",")
                for pair in options["--pairs"].split(",")
                for seed in options["--seeds"].split(",")
            ]
        assert len(set(named)) == len(named) == len(missing)
        assert set(named) == {(m.label, m.column.pair, m.seed) for m in missing}

    def test_pairs_that_lack_the_same_share_a_command(self):
        (line,) = commands(self.missing([], (A, B, C)))
        assert self.parsed(line) == {
            "--methods": "scratch,kd",
            "--pairs": f"{A},{B},{C}",
            "--recipe": "demo",
            "--seeds": "0,1,2",
        }

    def test_another_precision_is_named(self):
        lines = commands(self.missing([record("kd", A, precision="bf16")], (A,)))
        assert [self.parsed(line)["--precision"] for line in lines] == ["bf16"]


class TestBytes:
    @pytest.mark.parametrize("seed", range(5))
    def test_shuffled_records_give_the_same_page(self, seed):
        rng = random.Random(seed)
        records = [
            record(
                m, p, s, round(rng.uniform(70, 90), 2), device=rng.choice(["CPU", "H200"]), seconds=rng.random() * 99
            )
            for p in (A, B, C)
            for m in CONFIGS
            for s in range(4)
            if rng.random() < 0.8
        ]
        records += [record("kd", A, 9, recipe=RECIPE | {"epochs": e}) for e in (1, 2, 3)]
        wanted = page(records, (A, B, C)).encode()
        for _ in range(5):
            rng.shuffle(records)
            assert page(records + records[:3], (A, B, C)).encode() == wanted

    def test_text_from_records_stays_in_its_cell(self):
        hostile = "GPU | <img src=x>\n\n# Owned [a](http://x)"
        text = page([record("kd", A, device=hostile)])
        _, runs = tables(section(text, "Conditions"))
        assert runs[1][3] == "GPU | <img src=x>\n# Owned [a](http://x)"
        assert "\n# Owned" not in text

    def test_one_line_end_and_no_trailing_space(self):
        text = page(grid())
        assert text.endswith("\n") and not text.endswith("\n\n")
        assert not any(line != line.rstrip() for line in text.splitlines())


def test_numbers_are_rounded_without_a_negative_zero():
    assert [points(v, signed=True) for v in (-0.001, 0.0, 1.005, -1.5, None)] == [
        "+0.00",
        "+0.00",
        "+1.00",
        "-1.50",
        "–",
    ]
    assert [span(values) for values in ((), (3,), (3, 3), (3, 1, 2), (1000000,))] == [
        "",
        "3",
        "3",
        "1 to 3",
        "1,000,000",
    ]
