"""A board as LaTeX for `\\input`, with booktabs. Equal boards give equal text."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from cakdbench.reports.board import PLOTS, Board, Section, value_spans
from cakdbench.reports.text import Span, blocks, inline, is_list

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "→": r"$\to$", "–": "--", "×": r"$\times$", "°": r"$^\circ$"},
    **{"†": r"$^\dagger$", "‡": r"$^\ddagger$", "²": "$^2$", "•": r"$\bullet$", "✗": r"$\times$"},
}
STYLES = {
    **{"best": r"\textbf{{{}}}", "bold": r"\textbf{{{}}}", "code": r"\texttt{{{}}}"},
    **{"printed": r"\textit{{{}}}", "emphasis": r"\textit{{{}}}", "italic": r"\textit{{{}}}"},
}
SIGNED = re.compile(r"(?<![\w.$])[+-]\d+\.\d+")
NARROW = 5
"""The most columns of a table that is not scaled to the width of the text."""
LONG = 60
"""Characters of a cell from which its column is broken into lines."""


def latex(text: str) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    return " ".join("".join(SPECIAL.get(char, char) for char in text).split())


def board_latex(board: Board) -> str:
    """Return the sections of a board, a float for each table. A comment names each section, for those who want few."""
    lines = ["% requires booktabs, graphicx"]
    for section in board.sections:
        lines += ["", f"% {' '.join(section.name.split())}", *_section(section)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield rf"\paragraph{{{latex(section.title)}}}"
    yield from map(_note, section.notes)
    if section.frame is not None:
        yield from _table(section.frame, _parts(inline(section.caption)) or latex(section.name))
    yield from map(_note, section.footer)
    if section.code:
        yield _items(rf"\texttt{{{latex(line)}}}" for line in section.code)
    if section.plots:
        yield _items(f"{latex(plot.alt)} \\texttt{{{latex(f'{PLOTS}/{plot.name}')}}}" for plot in section.plots)


def _table(frame: pd.DataFrame, caption: str) -> Iterator[str]:
    # Only the widest tables are scaled, since scaling makes the type of every table of another size.
    wide = len(frame.columns) > NARROW
    is_long = [any(len(str(value)) > LONG for value in frame.iloc[:, place]) for place in range(frame.shape[1])]
    columns = "".join(r"p{0.4\textwidth}" if long else "l" for long in is_long)
    tabular = frame.map(_cell).set_axis([_cell(head) for head in frame.columns], axis=1)
    yield from (r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}")
    yield from [r"\resizebox{\textwidth}{!}{%"] * wide
    yield tabular.style.hide(axis="index").to_latex(hrules=True, column_format=columns).rstrip()
    yield from ["}"] * wide
    yield r"\end{table*}"


def _cell(value: Any) -> str:
    lines: list[list[Span]] = [[]]
    for span in value_spans(value):
        if span.style == "break":
            lines.append([])
        else:
            lines[-1].append(span)
    texts = [_parts(line) for line in lines]
    stacked = r"\\".join(texts)
    return texts[0] if len(texts) == 1 else rf"\shortstack[l]{{{stacked}}}"


def _note(note: str) -> str:
    texts = map(_parts, blocks(note))
    return _items(texts) if is_list(note) else "\n\n".join(texts) + r"\par"


def _parts(parts: Iterable[Span]) -> str:
    texts = []
    for text, style in parts:
        # The spaces at the ends of a part stand between words, and `latex` drops them.
        before, after = (" " * end.isspace() for end in (text[:1], text[-1:] if text.strip() else ""))
        texts.append(before + STYLES.get(style, "{}").format(SIGNED.sub(r"$\g<0>$", latex(text))) + after)
    return "".join(texts).strip()


def _items(texts: Iterable[str]) -> str:
    return "\n".join([r"\begin{itemize}", *(rf"\item {text}" for text in texts), r"\end{itemize}"])
