"""How numbers and foreign text are written, on every kind of page."""

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

MISSING, REFUSED = "–", "n/a"


def points(value: float | None, signed: bool = False) -> str:
    """Return a percentage or a difference with two decimals, zero without a minus sign."""
    if value is None or value != value:
        return MISSING
    return format(round(value, 2) + 0.0, "+.2f" if signed else ".2f")


def span(values: Iterable[float], spec: str = ",") -> str:
    """Return `3`, or `1 to 3`; nothing for no values."""
    values = sorted(values)
    return " to ".join(dict.fromkeys(format(value, spec) for value in (values[:1] + values[-1:])))


def number_text(value: object) -> str:
    """Return a number for readers: with thousands separators, fractions with three digits; others as their text."""
    if value is None or value != value:
        return MISSING
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plain(text: str) -> str:
    """Return markdown of a text that cannot leave its table cell or line; its own line breaks are kept as such."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "<br>".join(line.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;") for line in lines if line)


def template(name: str) -> str:
    """Return a file of `templates/`."""
    return files("cakdbench.reports").joinpath("templates", name).read_text(encoding="utf-8")


def prose(page: str, **values: object) -> dict[str, tuple[str, ...]]:
    """Return what never changes on a page, `templates/<page>.md`: by heading its paragraphs and lists.

    Args:
        values: of the names in braces.
    """
    _, *parts = re.split(r"^# (.*)\n", template(f"{page}.md").format(**values), flags=re.MULTILINE)
    return {name: tuple(re.split(r"\n{2,}", text.strip())) for name, text in zip(parts[::2], parts[1::2], strict=True)}


class Span(NamedTuple):
    """A part of a text and its style.

    In notes plain, code, bold or italic; in cells plain, emphasis, code, accuracy, best, gain, printed or break.
    """

    text: str
    style: str = "plain"


INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\*(?P<italic>.+?)\*|(?<!\\)\[(?P<link>[^\]]+)\]\([^)]*\)")


def inline(markdown: str) -> list[Span]:
    """Return the parts of a note: what it marks, with its escapes undone; of links the text."""
    parts, end = [], 0
    for match in INLINE.finditer(markdown):
        parts.append(Span(markdown[end : match.start()]))
        style = match.lastgroup or "plain"
        text = match[style] if style == "code" else match[style].replace("`", "")
        parts.append(Span(text, "plain" if style == "link" else style))
        end = match.end()
    parts.append(Span(markdown[end:]))
    return [Span(_unescaped(text), style) for text, style in parts if text]


def blocks(note: str) -> list[list[Span]]:
    """Return the paragraph of a note, or its list items, an entry each."""
    items = re.split(r"^- ", note, flags=re.MULTILINE)
    return [inline(" ".join(item.split())) for item in items if item.strip()]


def bullets(lines: Iterable[str]) -> tuple[str, ...]:
    """Return a note that lists some lines; nothing for no lines."""
    note = "\n".join(f"- {line}" for line in lines)
    return (note,) if note else ()


def is_list(note: str) -> bool:
    """Return True if a note is a list."""
    return note.startswith("- ")


def _unescaped(text: str) -> str:
    return text.replace("\\|", "|").replace("\\[", "[").replace("&lt;", "<").replace("<br>", " ")
