"""Every section of a board stands in every format with all of its numbers."""

import csv
import io
import re
from html import unescape

import pytest

from cakdbench.recipes import load_recipe
from cakdbench.reports.blocks import board_results
from cakdbench.reports.board import Cell, Section, value_spans
from cakdbench.reports.pages import FORMATS
from cakdbench.reports.sections import board_of
from cakdbench.reports.text import blocks
from cakdbench.submissions.entry import ExternalEntry
from tests.reports.boards import NUMBERS, A, B, M, prints, runs
from tests.reports.synthetic import TestRules, column, printed, record

OTHER = "cnn_mini>vit_mini@demo"
TITLES = {
    *("", "Results", "Top-5 accuracy", "How the printed numbers were made", "How sure is a difference?"),
    *("Optimistic numbers (best epoch on the test set)", "Averaged weights (EMA, last epoch)", "Conditions"),
    *("Devices, speed and parameters of the runs", "Plots", "Notes", "Not measured yet"),
    *("Runs with changed settings (not comparable)", "cifar100, Precision: fp32", "cifar100, Precision: bf16", "demo"),
    "Measured with other code (external: not re-scored, not ranked)",
}


@pytest.fixture(scope="module")
def board():
    """A board with every kind of section, two datasets and two precisions."""
    records = [*runs((A, B)), *runs((A,), precision="bf16", ema=77.125), *runs((M,), accuracies={"scratch": 71.0})]
    records += [record("kd", OTHER, 0, 66.5, mismatch=True), record("scratch", OTHER, 0, 61.25)]
    records.append(record("kd", A, 0, 12.34, recipe=NUMBERS | {"epochs": 1}))
    records.append(record("kd", A, 1, 13.57, recipe=load_recipe("demo").numbers(), recipe_name="mine"))
    values = prints()
    values[A]["ofa"] += (printed("94.625", "ofa", pair=A, metric="top5"),)
    external = ExternalEntry(
        method="Other", pair=A, metric="best epoch", accuracy=85.125, deviation=0.375, seeds=3,
        differences=("300 epochs",), source="https://example.org/paper", submitted_by="A. Author",
    )  # fmt: skip
    columns = [*(column(pair, numbers=NUMBERS) for pair in (A, B, M)), column(OTHER)]
    made = board_results("all", "All", columns, records, TestRules(values), external=(external,))
    return board_of(made)


def read(text, ending):
    """A file's text as a reader sees it, without marks of the format."""
    if ending == "csv":
        return " ".join(" ".join(row.values()) for row in csv.DictReader(io.StringIO(text)))
    if ending == "html":
        return unescape(re.sub(r"<[^>]*>", "", text.replace("<br>", " ")))
    if ending == "tex":
        for macro in ("textbf", "textit", "texttt"):
            text = re.sub(rf"\\{macro}\{{((?:[^{{}}]|\\[{{}}])*)\}}", r"\1", text)
        marks = {r"$\pm$": "±", r"$\to$": "→", r"$^\circ$": "°", r"$^\dagger$": "†", r"$^\ddagger$": "‡", "--": "–"}
        marks |= {r"$\times$": "×", "$<$": "<", "$>$": ">", r"\\": " ", r"\textasciicircum{}": "^"}
        for mark, char in marks.items():
            text = text.replace(mark, char)
        return re.sub(r"\$([+-][\d.]+)\$", r"\1", re.sub(r"\\([&%$#_{}])", r"\1", text))
    text = re.sub(r"(?<![\\!])\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return text.replace("<br>", " ").replace("&lt;", "<").replace("\\[", "[").replace("\\|", "|")


def squeezed(text):
    """Text without spaces and without what marks emphasis or code."""
    return re.sub(r"[\s*`]", "", text).replace("--", "–")


def texts_of(section: Section):
    """Every text of a section: its title, and what stands in it."""
    yield section.title
    for note in (*section.notes, *section.footer):
        yield from ("".join(part.text for part in item) for item in blocks(note))
    if section.frame is not None:
        yield from section.frame.columns
        for row in section.frame.itertuples(index=False):
            yield from (span.text for value in row for span in value_spans(value))
    yield from section.code
    yield from (plot.alt for plot in section.plots)


def test_the_board_has_every_kind_of_section(board):
    titles = {section.title for section in board.sections}
    assert titles == TITLES - {"Results"}
    assert len({section.name for section in board.sections}) == len(board.sections)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_text_and_number_of_every_section_stands_in_every_format(board, ending):
    written = squeezed(read(FORMATS[ending](board), ending))
    for section in board.sections:
        for text in texts_of(section):
            if ending == "md" and section.plots and text != section.title:
                continue  # the picture itself, by its caption
            assert squeezed(text) in written, (section.name, text)


@pytest.mark.parametrize("ending", FORMATS)
def test_the_sections_stand_in_one_order(board, ending):
    written = squeezed(read(FORMATS[ending](board), ending))
    place = 0
    for section in board.sections:
        place = written.index(squeezed(section.title), place)


@pytest.mark.parametrize("ending", FORMATS)
def test_chosen_numbers_stand_in_every_format(board, ending):
    written = squeezed(read(FORMATS[ending](board), ending))
    chosen = ("72.10±0.10(+2.00)", "80.5F,80.54T", "94.625T", "12.34", "85.12±0.38", "77.12", "66.50(+5.25)", "mine(1)")
    for text in chosen:
        if ending == "csv" and text in ("80.5F,80.54T", "94.625T"):
            text = text.partition(",")[0]
        assert text in written, text


def test_no_format_forgets_a_section_that_is_new(board):
    frame = board.sections[1].frame.iloc[:1, :1].assign(new=[Cell(measured=12.3456)])
    made = type(board)("x", "X", (Section("Brand new", notes=("Some *note*.",), frame=frame),))
    for ending, write in FORMATS.items():
        written = read(write(made), ending)
        assert "Brand new" in written and "12.35" in written and "note" in written
