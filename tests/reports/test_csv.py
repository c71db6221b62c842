"""Boards as CSV, read back by pandas."""

import io

import pandas as pd
import pytest

from cakdbench.reports.csv import COLUMNS, board_csv
from cakdbench.reports.sections import board_of
from tests.reports.boards import A, B, M, answers, board, prints, results, runs
from tests.reports.synthetic import TestRules


def lines(made):
    frame = pd.read_csv(io.StringIO(board_csv(made)), keep_default_na=False)
    assert tuple(frame.columns) == COLUMNS
    return frame


def test_measured_cells_hold_the_numbers_of_the_board():
    made = results(pairs=(A, B, M), prints=prints(), tests=answers)
    (block,) = made.blocks
    frame = lines(board_of(made))
    cells = (
        frame[(frame.section == "Results") & (frame.kind == "cell")].astype({"row": float}).set_index(["row", "column"])
    )
    for number, row in enumerate(block.rows, 2):
        for column, score in zip(block.columns, row.scores, strict=True):
            line = cells.loc[number, f"{column.column.teacher} → {column.column.student}"]
            assert (line["name"], line.n) == (row.title, str(len(score.seeds)) if score.seeds else "")
            for name, value in {"value": score.mean, "sd": score.sd, "gain": score.gain}.items():
                assert line[name] == "" if value is None else float(line[name]) == pytest.approx(value, abs=1e-6)
        for name, value in {"average gain": row.average_gain, "rank": block.standings.ranks.get(row.label)}.items():
            line = cells.loc[number, name]
            if row.label != "scratch":
                assert line.value == "" if value is None else float(line.value) == pytest.approx(value, abs=1e-6)
        assert cells.loc[number, "group"].text == block.standings.letters.get(row.label, "–")


def test_one_cell_by_hand():
    frame = lines(board())
    (line,) = frame[(frame["name"] == "KD") & (frame.column == "swin_t → resnet18") & (frame.section == "Results")].iloc
    assert (float(line.value), float(line.sd), float(line.gain), float(line.n)) == (72.1, 0.1, 2.0, 3)
    assert (line.text, line.kind, line.sources) == ("72.10 ± 0.10 (+2.00)", "cell", "")
    (line,) = frame[(frame["name"] == "KD") & (frame.column == "swin_t → resnet18") & (frame.section != "Results")].iloc
    assert line.section.startswith("Optimistic") and float(line.value) == 72.6


def test_printed_values_stay_as_printed():
    frame = lines(board(prints=prints()))
    printed = frame[(frame.kind == "printed") & frame.column.str.contains("resnet18")]
    assert printed[["name", "value", "sources"]].values.tolist() == [
        ["teacher", "89.26", "T"],
        ["OFA", "80.5", "F"],
        ["OFA", "80.54", "T"],
        ["unknown", "77.77", "T"],
    ]


def test_precisions_have_their_own_lines():
    made = board(runs((A,)) + runs((A,), precision="bf16"), (A,))
    assert {"Precision: fp32", "Precision: bf16", "Precision: bf16: Conditions"} <= set(lines(made).section)


def test_text_survives_commas_quotes_and_line_breaks():
    class Rules(TestRules):
        def refusal(self, label, column):
            return 'a, "b"\nc' if label == "kd" else None

    made = board(runs((A,), accuracies={"scratch": 70.0}), (A,), rules=Rules(), title='x,"y"\n')
    notes = lines(made).query("kind == 'note'").text
    assert any(note.startswith('n/a a, "b" c: kd on') for note in notes)


def test_equal_boards_give_equal_text():
    assert board_csv(board()) == board_csv(board(runs()[::-1]))
