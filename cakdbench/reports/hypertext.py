"""HTML that foreign text cannot break out of."""

import re
from html import escape

from cakdbench.reports.tables import BREAK, Table


def coded(text: str) -> str:
    """Text as HTML; what stands in backticks as code, line breaks kept."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace(BREAK, "<br>")


def rich(markdown: str) -> str:
    """A line of our own markdown as HTML: code, bold, italics; of links the text."""
    text = coded(markdown.replace("\\|", "|").replace("\\[", "[").replace("&lt;", "<"))
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text))


def bullets(markdown: str) -> str:
    """A markdown list as HTML."""
    lines = (" ".join(line.split()) for line in re.split(r"^- ", markdown, flags=re.MULTILINE))
    return f"<ul>{''.join(f'<li>{rich(line)}</li>' for line in lines if line)}</ul>"


def table_html(table: Table) -> str:
    """A table that scrolls in itself."""
    heads = "".join(f'<th scope="col">{coded(head)}</th>' for head in table.heads)
    rows = "".join(f"<tr>{''.join(f'<td>{coded(str(cell))}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def attributes(**values: object) -> str:
    """Attributes of a tag, escaped; None leaves one out. `data_name` becomes `data-name`."""
    found = {name.rstrip("_").replace("_", "-"): value for name, value in values.items() if value is not None}
    return "".join(f' {name}="{escape(str(value))}"' for name, value in found.items())
