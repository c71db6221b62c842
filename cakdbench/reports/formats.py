"""A board as CSV, one line a number, and as LaTeX tables. Equal boards give equal text."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cakdbench.published.compare import Printed, sources
from cakdbench.reports.board import SCRATCH, TEACHER, Block, BlockColumn, Board, Column, Row, Score
from cakdbench.reports.printed import printed_text
from cakdbench.reports.text import (
    FEWER_SEEDS,
    MARKS,
    MISMATCH,
    MISSING,
    REFUSED,
    pair_text,
    points,
    score_marks,
    span,
    teacher_text,
)

CSV_COLUMNS = (
    *("dataset", "precision", "recipe", "teacher", "student", "method", "kind", "source", "table"),
    *("n", "seeds", "mean", "sd", "gain", "optimistic", "ema", "rank", "letters", "average_gain", "refusal"),
)


def block_csv(board: Board) -> str:
    """The blocks of a board in long form: a line for each pair and method, and one for each printed value.

    `mean` is in percent, and for a printed value what is printed; `sd`, `gain` and `average_gain` are in points.
    Rank, letters and average gain are those of the method in the block. No measurement: n is 0.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for block in board.blocks for line in _csv_lines(block))
    return text.getvalue()


def _csv_lines(block: Block) -> Iterator[dict[str, Any]]:
    for place, column in enumerate(block.columns):
        pair = column.column
        facts = {"dataset": pair.dataset, "precision": block.precision, "recipe": pair.recipe}
        facts |= {"teacher": pair.teacher, "student": pair.student}
        teacher = facts | {"method": TEACHER}
        yield from (teacher | {"kind": "measured", "mean": _number(value)} for value in column.teacher_top1)
        yield from _csv_printed(teacher, column.printed.get(TEACHER, ()))
        for row in block.rows:
            score, method = row.scores[place], facts | {"method": row.label}
            yield method | {"kind": "measured"} | _csv_score(score) | _csv_standing(row, block)
            yield from _csv_printed(method, score.printed)


def _csv_printed(facts: dict[str, Any], values: Iterable[Printed]) -> Iterator[dict[str, Any]]:
    for each in values:
        yield facts | {"kind": "printed", "source": each.source, "table": each.table, "mean": each.value}


def _csv_score(score: Score) -> dict[str, Any]:
    numbers = {
        "mean": score.mean,
        "sd": score.sd,
        "gain": score.gain,
        "optimistic": score.mean_of(lambda record: record.result.optimistic_top1),
        "ema": score.mean_of(lambda record: record.result.ema_top1),
    }
    texts = {"n": len(score.records), "seeds": " ".join(map(str, score.seeds)), "refusal": score.refusal or ""}
    return texts | {name: _number(value) for name, value in numbers.items()}


def _csv_standing(row: Row, block: Block) -> dict[str, Any]:
    standings = block.standings
    return {
        "rank": _number(standings.ranks.get(row.label)),
        "letters": standings.letters.get(row.label, ""),
        "average_gain": _number(row.average_gain),
    }


def _number(value: float | None) -> str:
    return "" if value is None else str(round(value, 6) + 0.0)


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "→": r"$\to$", "–": "--", "×": r"$\times$", "°": r"$^\circ$"},
    **{MISMATCH: r"$^\dagger$", FEWER_SEEDS: r"$^\ddagger$"},
}
NARROW = 4
"""The most pairs of a table that is not scaled to the width of the text."""


def latex(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return " ".join("".join(SPECIAL.get(char, char) for char in text).split())


def board_latex(board: Board) -> str:
    """The main tables of a board for `\\input`, with booktabs."""
    wide = any(len(block.columns) > NARROW for block in board.blocks)
    lines = ["% requires booktabs" + ", graphicx" * wide]
    for block in board.blocks:
        lines += ["", *_latex_block(board, block)]
    return "\n".join(lines) + "\n"


def _latex_block(board: Board, block: Block) -> Iterator[str]:
    wide = len(block.columns) > NARROW
    yield from (r"\begin{table*}", r"\centering", rf"\caption{{{_caption(board, block)}}}")
    yield from [r"\resizebox{\textwidth}{!}{%"] * wide
    yield rf"\begin{{tabular}}{{l{'c' * len(block.columns)}rrl}}"
    yield r"\toprule"
    yield from map(_line, _latex_heads(block))
    yield r"\midrule"
    yield from map(_line, _latex_teachers(block))
    yield r"\midrule"
    for row in block.rows:
        yield from map(_line, _latex_rows(row, block))
    yield from (r"\bottomrule", r"\end{tabular}" + "}" * wide, r"\end{table*}")


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_heads(block: Block) -> list[list[str]]:
    """Teachers, students, and what else tells the pairs apart, a line each."""
    parts = [pair_text(column.column, block, "\n").replace(" → ", "\n").split("\n") for column in block.columns]
    depth = max(map(len, parts))
    lines = [[latex(part[i]) if i < len(part) else "" for part in parts] for i in range(depth)]
    names = ["teacher", "student", *[""] * (depth - 2)]
    endings = [["average", "average", ""], ["gain", "rank", "group"], *[[""] * 3] * (depth - 2)]
    return [[name, *line, *ending] for name, line, ending in zip(names, lines, endings, strict=True)]


def _latex_teachers(block: Block) -> Iterator[list[str]]:
    printed = [_latex_printed(each.printed.get(TEACHER, ()), each.column) for each in block.columns]
    yield from _two_lines("teacher alone", [_latex_teacher(column) for column in block.columns], printed, [""] * 3)


def _latex_teacher(column: BlockColumn) -> str:
    return latex(teacher_text(column)) if column.taught else ""


def _latex_rows(row: Row, block: Block) -> Iterator[list[str]]:
    """What is measured of a method, and below it what is printed; without a measurement only that."""
    standings = block.standings
    level = [row.label in names for names in standings.level] or [False] * len(row.scores)
    measured = [_latex_score(score, best) for score, best in zip(row.scores, level, strict=True)]
    group = standings.letters.get(row.label, "--")
    ending = [_latex_average(row), latex(points(standings.ranks.get(row.label))), group]
    has_runs = any(score.records for score in row.scores)
    yield from _two_lines(
        latex(row.title),
        measured if has_runs else [""] * len(measured),
        [_latex_printed(score.printed, each.column) for each, score in zip(block.columns, row.scores, strict=True)],
        ending if has_runs else [""] * 3,
    )


def _latex_average(row: Row) -> str:
    if row.label == SCRATCH:
        return ""
    whole = len(row.gains) in (0, len(row.scores))
    return _signed(row.average_gain) + ("" if whole else f" ({len(row.gains)} of {len(row.scores)} pairs)")


def _two_lines(name: str, measured: list[str], printed: list[str], ending: list[str]) -> Iterator[list[str]]:
    if any(measured) or not any(printed):
        yield [name, *measured, *ending]
        name = r"\quad printed"
    if any(printed):
        yield [name, *printed, "", "", ""]


def _latex_score(score: Score, best: bool) -> str:
    if not score.records:
        return latex(MISSING if score.refusal is None else REFUSED)
    text = points(score.mean) if score.sd is None else rf"{points(score.mean)} $\pm$ {points(score.sd)}"
    gain = "" if score.gain is None else f" ({_signed(score.gain)})"
    return (rf"\textbf{{{text}}}" if best else text) + gain + "".join(map(latex, score_marks(score)))


def _signed(value: float | None) -> str:
    return "--" if value is None else f"${points(value, signed=True)}$"


def _latex_printed(values: Iterable[Printed], column: Column) -> str:
    """Printed values in italics, each with the letters of its sources raised."""
    texts = filter(None, printed_text(values, column).strip("*").split(", "))
    parts = (text.partition(" ") for text in texts)
    return ", ".join(rf"\textit{{{value}}}\textsuperscript{{{latex(marks)}}}" for value, _, marks in parts)


def _caption(board: Board, block: Block) -> str:
    columns = [column.column for column in block.columns]
    conditions = [
        f"dataset {', '.join(dict.fromkeys(column.dataset for column in columns))}",
        f"recipe {', '.join(dict.fromkeys(column.recipe for column in columns))}",
        f"{span(column.numbers['epochs'] for column in columns)} epochs",
        f"{span(column.numbers['image_size'] for column in columns)} px",
        f"precision {block.precision}",
    ]
    seeds = span(len(score.records) for row in block.rows for score in row.scores if score.records)
    conditions += [f"seeds: {seeds}"] if seeds else []
    text = f"{board.title} ({'; '.join(conditions)}). Top-1 accuracy in percent, last epoch"
    return latex(text) + _caption_rest(block)


def _caption_rest(block: Block) -> str:
    scores = [score for row in block.rows for score in row.scores]
    parts = []
    if any(score.records for score in scores):
        parts.append(r": mean $\pm$ standard deviation over seeds (gain over scratch in points). ")
        parts.append("Bold: the best of a pair and what cannot be told apart from it; methods that share a letter ")
        parts.append("cannot be told apart")
    used = {mark for score in scores for mark in score_marks(score)}
    parts += [f". {latex(mark)} {latex(meaning)}" for mark, meaning in MARKS.items() if mark in used]
    cited = {each.source for column in block.columns for values in column.printed.values() for each in values}
    letters = [f"{sources()[key].mark}: {latex(key)}" for key in sorted(cited, key=lambda key: sources()[key].mark)]
    if letters:
        parts.append(rf". \textit{{Italics: printed in papers, not measured here}} ({', '.join(letters)})")
    return "".join(parts) + "."
