"""Boards as LaTeX, read back."""

import re

import pytest

from cakdbench.reports.latex import board_latex, latex
from tests.reports.boards import NUMBERS, A, B, M, answers, board, prints, runs
from tests.reports.synthetic import record


def tables(text):
    """The tables of a LaTeX text: format of the columns, and lists of cells."""
    bodies = re.findall(r"\\begin\{tabular\}\{((?:[lr]|p\{[^}]*\})+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [(spec, [_cells(line) for line in body.splitlines() if line.endswith(r"\\")]) for spec, body in bodies]


def _cells(line):
    return re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))


@pytest.fixture(scope="module")
def text():
    return board_latex(
        board(runs((A, B, M)) + [record("kd", A, 5, 73.0, recipe=NUMBERS)], (A, B, M), prints(), tests=answers)
    )


def test_braces_are_balanced_and_environments_closed(text):
    depth = 0
    for char in re.sub(r"\\[{}]", "", text):
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert depth == 0
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\S+?)\}", text):
        assert kind == "begin" or open_ones.pop() == name
        open_ones += [name] * (kind == "begin")
    assert open_ones == []


def test_every_line_has_a_cell_for_each_column(text):
    for spec, rows in tables(text):
        assert {len(row) for row in rows} == {len(re.sub(r"\{[^}]*\}", "", spec))}
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(tables(text)) >= 5


def test_cells(text):
    _, (heads, *rows) = tables(text)[0]
    by_name = {row[0]: row[1:] for row in rows}
    assert heads[:2] == ["method", r"swin\_t $\to$ resnet18"]
    assert by_name["scratch"][0] == r"70.10 $\pm$ 0.10"
    assert by_name["KD"][1] == r"73.10 $\pm$ 0.10 ($+2.00$) n=3"
    assert by_name["KD"][0].endswith(r"($+2.00$) n=4 $^\ddagger$")
    assert by_name["FBT"][:4] == [
        *(rf"\textbf{{{value} $\pm$ 0.10}} ($+10.10$)" for value in ("80.20", "81.20")),
        "n/a",
        "$+10.10$ (2 of 3 pairs)",
    ]
    assert by_name["unknown"][0] == r"-- \textit{77.77 T}"
    measured = r"\textbf{80.10 $\pm$ 0.10} ($+10.00$)"
    assert by_name["OFA"][0] == rf"\shortstack[l]{{{measured}\\\textit{{80.5 F, 80.54 T}}}}"


def test_the_caption_says_the_conditions(text):
    caption = re.search(r"\\caption\{(.*)\}", text)[1]
    assert "dataset cifar100; recipe demo; 300 epochs; 224 px; precision fp32; seeds: 3 to 4" in caption
    assert "T: tas" in caption and "F: fofa" in caption


def test_only_wide_tables_are_scaled():
    narrow, wide = (board_latex(board(runs(pairs), pairs)) for pairs in ((), tuple(f"a>b{n}@cifar100" for n in (1, 2))))
    assert wide.count("resizebox") > narrow.count("resizebox")


def test_titles_cannot_break_out():
    hostile = r"100% of \x{y}$_^~#&" + "\n<|>*[a](b)`"
    made = board(runs((A,)), (A,), title=hostile)
    expected = r"100\% of \textbackslash{}x\{y\}\$\_\textasciicircum{}\textasciitilde{}\#\& $<$$|$$>$*[a](b)`"
    assert latex(hostile) == expected
    assert rf"\caption{{{expected} (" in board_latex(made)


def test_equal_boards_give_equal_text():
    assert board_latex(board()) == board_latex(board(runs()[::-1]))
