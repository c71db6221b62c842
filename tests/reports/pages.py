"""Reads a markdown page back as a reader's browser would."""

from markdown_it import MarkdownIt


def tables(page):
    """The tables of a page in order: lists of rows, the head first, of cell texts as rendered."""
    found, inside = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] * inside
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(_text(child) for child in token.children))
    return found


def _text(token):
    return "\n" if token.type == "html_inline" else token.content


def main_table(page):
    """The first table of a page: method to its cells by column head."""
    head, *rows = tables(page)[0]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
