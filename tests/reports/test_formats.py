"""Boards as CSV and LaTeX, read back."""

import csv
import io
import re

import pytest

from cakdbench.reports.formats import block_csv, board_latex, latex
from tests.reports.boards import NUMBERS, A, B, M, answers, board, prints, runs
from tests.reports.synthetic import TestRules, record


def lines(made):
    return list(csv.DictReader(io.StringIO(block_csv(made))))


class TestCsv:
    def test_measured_cells_hold_the_numbers_of_the_board(self):
        made = board(pairs=(A, B, M), prints=prints(), tests=answers)
        (block,) = made.blocks
        measured = {(x["teacher"], x["student"], x["method"]): x for x in lines(made) if x["kind"] == "measured"}
        for row in block.rows:
            for column, score in zip(block.columns, row.scores, strict=True):
                line = measured[column.column.teacher, column.column.student, row.label]
                assert (line["dataset"], line["precision"], line["recipe"]) == ("cifar100", "fp32", "demo")
                assert (int(line["n"]), line["seeds"]) == (len(score.records), " ".join(map(str, score.seeds)))
                assert line["refusal"] == (score.refusal or "")
                numbers = {"mean": score.mean, "sd": score.sd, "gain": score.gain, "average_gain": row.average_gain}
                numbers["rank"] = block.standings.ranks.get(row.label)
                for name, value in numbers.items():
                    assert line[name] == "" if value is None else float(line[name]) == pytest.approx(value, abs=1e-6)
                assert line["letters"] == block.standings.letters.get(row.label, "")

    def test_one_cell_by_hand(self):
        line = next(x for x in lines(board()) if (x["teacher"], x["method"]) == ("swin_t", "kd"))
        assert {key: line[key] for key in ("n", "seeds", "mean", "sd", "gain", "optimistic", "ema", "kind")} == {
            **{"n": "3", "seeds": "0 1 2", "mean": "72.1", "sd": "0.1", "gain": "2.0"},
            **{"optimistic": "72.6", "ema": "", "kind": "measured"},
        }

    def test_printed_values_stay_as_printed(self):
        printed = [x for x in lines(board(prints=prints())) if x["kind"] == "printed"]
        assert [(x["method"], x["source"], x["table"], x["mean"], x["n"]) for x in printed] == [
            ("teacher", "tas", "Table 1", "89.26", ""),
            ("ofa", "tas", "Table 1", "80.54", ""),
            ("ofa", "fofa", "Table 1", "80.5", ""),
            ("unknown", "tas", "Table 1", "77.77", ""),
        ]

    def test_the_measured_teacher_has_a_line(self):
        found = [x["mean"] for x in lines(board()) if (x["method"], x["kind"]) == ("teacher", "measured")]
        assert found == ["90.0", "90.0"]

    def test_precisions_have_their_own_lines(self):
        made = board(runs((A,)) + runs((A,), precision="bf16"), (A,))
        assert {x["precision"] for x in lines(made)} == {"fp32", "bf16"}

    def test_refusals_survive_commas_quotes_and_line_breaks(self):
        class Rules(TestRules):
            def refusal(self, label, column):
                return 'a, "b"\nc' if label == "kd" else None

        made = board(runs((A,), accuracies={"scratch": 70.0}), (A,), rules=Rules())
        assert [x["refusal"] for x in lines(made) if x["method"] == "kd"] == ['a, "b"\nc']


def rows_of(text):
    """The tables of a LaTeX text as lists of cells."""
    bodies = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [
        (
            spec,
            [
                re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
                for line in body.splitlines()
                if line[0] != "\\" or "&" in line
            ],
        )
        for spec, body in bodies
    ]


@pytest.fixture(scope="module")
def text():
    return board_latex(
        board(runs((A, B, M)) + [record("kd", A, 5, 73.0, recipe=NUMBERS)], (A, B, M), prints(), tests=answers)
    )


class TestLatex:
    def test_braces_are_balanced_and_environments_closed(self, text):
        bare = re.sub(r"\\[{}]", "", text)
        depth = 0
        for char in bare:
            depth += (char == "{") - (char == "}")
            assert depth >= 0
        assert depth == 0
        assert re.findall(r"\\begin\{(\S+?)\}", text) == re.findall(r"\\end\{(\S+?)\}", text)[::-1]

    def test_every_line_has_a_cell_for_each_column(self, text):
        ((spec, rows),) = rows_of(text)
        assert spec == "lcccrrl"
        assert {len(row) for row in rows} == {7}
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1

    def test_cells(self, text):
        ((_, rows),) = rows_of(text)
        by_name = {row[0]: row[1:] for row in rows}
        assert by_name["teacher"][:3] == ["swin\\_t", "vit\\_s", "swin\\_t"]
        assert by_name["student"][:3] == ["resnet18", "mobilenetv2", "mlp\\_mini"]
        assert by_name["scratch"][0] == r"70.10 $\pm$ 0.10"
        assert by_name["KD"][1] == r"73.10 $\pm$ 0.10 ($+2.00$)"
        assert by_name["KD"][0].endswith(r"($+2.00$)$^\ddagger$")
        assert by_name["FBT"][:4] == [
            *(rf"\textbf{{{value} $\pm$ 0.10}} ($+10.10$)" for value in ("80.20", "81.20")),
            "n/a",
            "$+10.10$ (2 of 3 pairs)",
        ]
        assert by_name["unknown"][0] == r"\textit{77.77}\textsuperscript{T}"

    def test_printed_values_stand_below_the_measured(self, text):
        ((_, rows),) = rows_of(text)
        place = next(i for i, row in enumerate(rows) if row[0] == "OFA")
        assert rows[place + 1][:2] == [
            r"\quad printed",
            r"\textit{80.5}\textsuperscript{F}, \textit{80.54}\textsuperscript{T}",
        ]

    def test_the_caption_says_the_conditions(self, text):
        caption = re.search(r"\\caption\{(.*)\}", text)[1]
        assert "dataset cifar100; recipe demo; 300 epochs; 224 px; precision fp32; seeds: 3 to 4" in caption
        assert "T: tas" in caption and "F: fofa" in caption and r"$^\ddagger$ gain over the seeds" in caption

    def test_one_table_a_block_and_only_wide_ones_are_scaled(self, text):
        two = board_latex(board(runs((A,)) + runs((A,), precision="bf16"), (A,)))
        assert len(rows_of(two)) == 2 and "resizebox" not in two + text
        wide = [f"swin_t>resnet{n}@cifar100" for n in range(5)]
        assert board_latex(board(runs(wide), wide)).startswith("% requires booktabs, graphicx\n")

    def test_titles_cannot_break_out(self):
        hostile = r"100% of \x{y}$_^~#&" + "\n<|>"
        made = board(runs((A,)), (A,), title=hostile)
        expected = r"100\% of \textbackslash{}x\{y\}\$\_\textasciicircum{}\textasciitilde{}\#\& $<$$|$$>$"
        assert latex(hostile) == expected
        assert rf"\caption{{{expected} (" in board_latex(made)

    def test_equal_boards_give_equal_text(self):
        assert board_latex(board()) == board_latex(board(runs()[::-1]))
        assert block_csv(board()) == block_csv(board(runs()[::-1]))
